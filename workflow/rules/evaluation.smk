localrules:
    summary,


rule evaluate:
    """Score every cutout of the cube with one model and measure it on the images it never saw."""
    input:
        cube="results/{telescope}/{pipeline}/cube.npz",
        cube_record="results/{telescope}/{pipeline}/cube.json",
        real_stars="results/{telescope}/{pipeline}/real_stars.npz",
        split="results/{telescope}/{pipeline}/split.csv",
        split_record="results/{telescope}/{pipeline}/split.json",
        shipped="results/{telescope}/{pipeline}/universal.csv",
        model="results/{telescope}/{pipeline}/{experiment}/seed{seed}/model.keras",
        train_record="results/{telescope}/{pipeline}/{experiment}/seed{seed}/train.json",
    output:
        scores="results/{telescope}/{pipeline}/{experiment}/seed{seed}/scores.csv",
        metrics="results/{telescope}/{pipeline}/{experiment}/seed{seed}/metrics.json",
        curves="results/{telescope}/{pipeline}/{experiment}/seed{seed}/curves.csv",
    log:
        "results/logs/{telescope}/{pipeline}/{experiment}/seed{seed}/evaluate.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{experiment}/seed{seed}/evaluate.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        options=RUN.config.evaluate.model_dump(),
        threshold_rule=lambda wildcards: RUN.experiments[wildcards.experiment].threshold,
        protocol="by-image",
        code=code_of("evaluation/evaluate"),
    script:
        "../../scripts/evaluation/evaluate.py"


use rule evaluate as evaluate_random with:
    input:
        cube="results/{telescope}/{pipeline}/cube.npz",
        cube_record="results/{telescope}/{pipeline}/cube.json",
        real_stars="results/{telescope}/{pipeline}/real_stars.npz",
        split="results/{telescope}/{pipeline}/split_random.csv",
        split_record="results/{telescope}/{pipeline}/split.json",
        shipped="results/{telescope}/{pipeline}/universal.csv",
        model="results/{telescope}/{pipeline}/{experiment}/seed{seed}/random/model.keras",
        train_record="results/{telescope}/{pipeline}/{experiment}/seed{seed}/random/train.json",
    output:
        scores="results/{telescope}/{pipeline}/{experiment}/seed{seed}/random/scores.csv",
        metrics="results/{telescope}/{pipeline}/{experiment}/seed{seed}/random/metrics.json",
        curves="results/{telescope}/{pipeline}/{experiment}/seed{seed}/random/curves.csv",
    log:
        "results/logs/{telescope}/{pipeline}/{experiment}/seed{seed}/random/evaluate.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{experiment}/seed{seed}/random/evaluate.tsv"
    params:
        options=RUN.config.evaluate.model_dump(),
        threshold_rule=lambda wildcards: RUN.experiments[wildcards.experiment].threshold,
        protocol="random",
        code=code_of("evaluation/evaluate"),


rule summary:
    """Gather the tables of the run: trainings, images, pipelines, artefacts, telescopes and experiments."""
    input:
        metrics=trainings("metrics.json", "scores.csv", "train.json"),
    output:
        summary="results/summary.csv",
        quality="results/quality.csv",
        pipelines="results/pipelines.csv",
        artefacts="results/artefacts.csv",
        telescopes="results/telescopes.csv",
        experiments="results/experiments.csv",
        mcnemar="results/mcnemar.csv",
    log:
        "results/logs/summary.log",
    benchmark:
        "results/benchmarks/summary.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        cubes=RUN.config.run.cubes,
        images={telescope: RUN.inputs.images(telescope) for telescope in RUN.used_telescopes()},
        runs=RUN.trainings(),
        options=RUN.config.evaluate.model_dump(),
        seed=RUN.config.seed,
        code=code_of("evaluation/summary"),
    script:
        "../../scripts/evaluation/summary.py"
