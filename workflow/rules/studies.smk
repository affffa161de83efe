# Studies of transfer between telescopes; a pool stands where a telescope would.


localrules:
    sweep,


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
        equal=RUN.config.studies.equal_weight,
        channels=RUN.trained_channels(),
        code=code_digest("pool"),
    script:
        "../../scripts/cubes/pool.py"


rule transfer:
    """Score one model on the test sets of all cubes of the run."""
    input:
        model="results/{telescope}/{pipeline}/{experiment}/seed{seed}/model.keras",
        cube="results/{telescope}/{pipeline}/cube.npz",
        split="results/{telescope}/{pipeline}/split.csv",
        target_cubes=expand("results/{cube}/cube.npz", cube=RUN.config.run.cubes),
        target_splits=expand("results/{cube}/split.csv", cube=RUN.config.run.cubes),
    output:
        table="results/{telescope}/{pipeline}/{experiment}/seed{seed}/transfer.csv",
    log:
        "results/logs/{telescope}/{pipeline}/{experiment}/seed{seed}/transfer.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{experiment}/seed{seed}/transfer.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        targets=RUN.config.run.cubes,
        options=RUN.study_options(),
        threshold_rule=lambda wildcards: RUN.experiments[wildcards.experiment].threshold,
        code=code_digest("transfer"),
    script:
        "../../scripts/studies/transfer.py"


rule finetune:
    """Fine-tune a model that never saw the telescope with ever more of its labels."""
    input:
        model=lambda wildcards: f"results/{finetune_source(wildcards)}/{wildcards.experiment}/seed{wildcards.seed}/model.keras",
        source_cube=lambda wildcards: f"results/{finetune_source(wildcards)}/cube.npz",
        source_split=lambda wildcards: f"results/{finetune_source(wildcards)}/split.csv",
        cube="results/{telescope}/{pipeline}/cube.npz",
        split="results/{telescope}/{pipeline}/split.csv",
    output:
        table="results/{telescope}/{pipeline}/{experiment}/seed{seed}/finetune.csv",
    log:
        "results/logs/{telescope}/{pipeline}/{experiment}/seed{seed}/finetune.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{experiment}/seed{seed}/finetune.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
        gpu=1,
    params:
        source=finetune_source,
        options=lambda wildcards: {
            **RUN.study_options(),
            **RUN.config.finetune.model_dump(),
            "sizes": RUN.config.studies.finetune,
            "threshold_rule": RUN.experiments[wildcards.experiment].threshold,
        },
        training=lambda wildcards: RUN.experiments[wildcards.experiment].model_dump(),
        code=code_digest("finetune"),
    script:
        "../../scripts/studies/finetune.py"


rule sweep:
    """Gather the trainings of one study: an option of the experiments run through its values."""
    input:
        metrics=lambda wildcards: [
            f"results/{row['folder']}/{name}.json"
            for row in RUN.sweep(wildcards.sweep)
            for name in ("metrics", "train")
        ],
    output:
        table="results/studies/{sweep}.csv",
        figure="results/studies/{sweep}.png",
    log:
        "results/logs/studies/{sweep}.log",
    benchmark:
        "results/benchmarks/studies/{sweep}.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        rows=lambda wildcards: RUN.sweep(wildcards.sweep),
        code=code_digest("sweep"),
    script:
        "../../scripts/studies/sweep.py"
