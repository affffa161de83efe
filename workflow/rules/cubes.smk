rule cube:
    """Assemble the cube of one telescope under one pipeline from the cutouts of all its images."""
    input:
        images=finished_images,
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
        stacks=stacks,
        folder=lambda wildcards: RUN.inputs.folder(wildcards.telescope),
        seed=RUN.config.seed,
        options=RUN.config.cube.model_dump(),
        stamps=lambda wildcards: RUN.inputs.stamps([RUN.inputs.folder(wildcards.telescope)]),
        code=code_of("cubes/cube"),
    script:
        "../../scripts/cubes/cube.py"


rule split:
    """Deal the images of one cube, and the sky cells where they overlap, to train, validation and test."""
    input:
        cube="results/{telescope}/{pipeline}/cube.npz",
    output:
        split="results/{telescope}/{pipeline}/split.csv",
        random_split="results/{telescope}/{pipeline}/split_random.csv",
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
        code=code_of("cubes/split"),
    script:
        "../../scripts/cubes/split.py"


rule pool:
    """Join the cubes and splits of several telescopes under one pipeline (pool, pool-without-T)."""
    input:
        cubes=lambda wildcards: [f"results/{cube}/cube.npz" for cube in pool_members(wildcards)],
        splits=lambda wildcards: [f"results/{cube}/split.csv" for cube in pool_members(wildcards)],
        records=lambda wildcards: [f"results/{cube}/cube.json" for cube in pool_members(wildcards)],
        real_stars=lambda wildcards: [f"results/{cube}/real_stars.npz" for cube in pool_members(wildcards)],
    output:
        cube="results/{telescope}/{pipeline}/cube.npz",
        pooled_stars="results/{telescope}/{pipeline}/real_stars.npz",
        cube_record="results/{telescope}/{pipeline}/cube.json",
        split="results/{telescope}/{pipeline}/split.csv",
        split_record="results/{telescope}/{pipeline}/split.json",
    log:
        "results/logs/{telescope}/{pipeline}/pool.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/pool.tsv"
    wildcard_constraints:
        telescope=f"pool(-without-{NAME_PATTERN})?",
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        telescopes=lambda wildcards: [cube.split("/")[0] for cube in pool_members(wildcards)],
        seed=RUN.config.seed,
        channels=RUN.studies.trained_channels(),
        code=code_of("cubes/pool"),
    script:
        "../../scripts/cubes/pool.py"


rule drawn:
    """Join the cutouts of all telescopes drawn at random, and deal the telescopes to train, validation and test."""
    input:
        finished=[path for name, item in RUN.drawn.items() for path in images_files(name, item.pipeline)],
    output:
        cube="results/pool-drawn/all/cube.npz",
        drawn_stars="results/pool-drawn/all/real_stars.npz",
        cube_record="results/pool-drawn/all/cube.json",
        split="results/pool-drawn/all/split.csv",
        split_record="results/pool-drawn/all/split.json",
    log:
        "results/logs/pool-drawn/all/drawn.log",
    benchmark:
        "results/benchmarks/pool-drawn/all/drawn.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        stacks=[path for name, path in drawn_images()],
        telescopes=[name for name, path in drawn_images()],
        sets={name: item.set for name, item in RUN.drawn.items()},
        max_per_class=RUN.config.draw.max_per_class,
        seed=RUN.config.seed,
        options=RUN.drawn_cube().model_dump(),
        code=code_of("cubes/drawn"),
    script:
        "../../scripts/cubes/drawn.py"
