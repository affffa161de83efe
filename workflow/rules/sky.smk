rule simulate:
    """Simulate a science image, its reference and the truth, for one image of a simulated telescope."""
    output:
        science=temp("results/{telescope}/sky/{image}/science.fits"),
        reference=temp("results/{telescope}/sky/{image}/reference.fits"),
        truth="results/{telescope}/sky/{image}/truth.csv",
    log:
        "results/logs/{telescope}/sky/{image}/simulate.log",
    benchmark:
        "results/benchmarks/{telescope}/sky/{image}/simulate.tsv"
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 15 * attempt,
    params:
        telescope=RUN.simulated_row,
        index=lambda wildcards: RUN.images(wildcards.telescope).index(wildcards.image),
        seed=RUN.config.seed,
        code=code_digest("simulate"),
    script:
        "../../scripts/simulate.py"


rule reference:
    """Stack the reference frames of one field of a telescope."""
    input:
        frames=lambda wildcards: [
            path for path in RUN.reference_frames(wildcards.telescope, wildcards.field) if if_exists(path)
        ],
    output:
        reference="results/{telescope}/sky/{field}.reference.fits",
        record="results/{telescope}/sky/{field}.reference.json",
    log:
        "results/logs/{telescope}/sky/{field}/reference.log",
    benchmark:
        "results/benchmarks/{telescope}/sky/{field}/reference.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        frames=lambda wildcards: RUN.reference_frames(wildcards.telescope, wildcards.field),
        telescope=telescope_row,
        wcs=lambda wildcards: RUN.reference_wcs(wildcards.telescope, wildcards.field),
        code=code_digest("reference"),
    script:
        "../../scripts/reference.py"
