rule shipped:
    """Score one cube with the shipped model, with which the trainings are compared."""
    input:
        cube="results/{telescope}/{pipeline}/cube.npz",
    output:
        scores="results/{telescope}/{pipeline}/universal.csv",
    log:
        "results/logs/{telescope}/{pipeline}/shipped.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/shipped.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        model=shipped_digest(),
        code=code_of("classify/shipped"),
    script:
        "../../scripts/classify/shipped.py"
