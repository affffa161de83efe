"""Questions about trainings: transfer, fine-tuning, label noise, sweeps."""
