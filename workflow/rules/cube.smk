rule cube:
    """Assemble the cube of one telescope under one pipeline from the cutouts of all its images."""
    input:
        stacks=stacks,
        labels=RUN.labels or [],
    output:
        cube="results/{telescope}/{pipeline}/cube.npz",
        real_stars="results/{telescope}/{pipeline}/real_stars.npz",
        record="results/{telescope}/{pipeline}/cube.json",
    log:
        "results/logs/{telescope}/{pipeline}/cube.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/cube.tsv"
    wildcard_constraints:
        telescope=telescopes_where(lambda name: True),
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        folder=lambda wildcards: RUN.folder(wildcards.telescope),
        seed=RUN.config.seed,
        options=RUN.config.cube.model_dump(),
        code=code_digest("cube", "cube_folders"),
    script:
        "../../scripts/cubes/cube.py"


rule split:
    """Deal the images of one cube, and the sky cells where they overlap, to train, tune and test."""
    input:
        cube="results/{telescope}/{pipeline}/cube.npz",
    output:
        split="results/{telescope}/{pipeline}/split.csv",
        split_paper="results/{telescope}/{pipeline}/split_paper.csv",
        record="results/{telescope}/{pipeline}/split.json",
    log:
        "results/logs/{telescope}/{pipeline}/split.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/split.tsv"
    wildcard_constraints:
        telescope=telescopes_where(lambda name: True),
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 15 * attempt,
    params:
        seed=RUN.config.seed,
        options=RUN.config.split.model_dump(),
        code=code_digest("split"),
    script:
        "../../scripts/cubes/split.py"
