"""The card of a tiny network that stands in for the shipped model (fixture `shipped_model`)."""

CARD = {
    "data": {"text": "simulated telescopes", "n_telescopes": 3, "n_images": 9, "n_true": 1200, "n_false": 1100},
    "training": {"seed": 7, "commit": "abc1234"},
    "protocol": "telescopes that were not trained on",
    "scores": [{"set": "hatp32", "n_images": 62, "auc": 0.98, "auc_low": 0.97, "auc_high": 0.99, "fpr": 0.041}],
    "failures": ["trailed sources"],
}
