# Studies of trainings; a pool stands where a telescope would.
localrules:
    sweep,


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
        evaluate=RUN.config.evaluate.model_dump(include={"bootstrap", "confidence"}),
        guard=RUN.config.split.guard,
        threshold_rule=lambda wildcards: RUN.experiments[wildcards.experiment].threshold,
        code=code_of("studies/transfer"),
    script:
        "../../scripts/studies/transfer.py"


rule finetune:
    """Fine-tune a model that never saw the telescope with ever more of its labels."""
    input:
        model=source_file("{experiment}/seed{seed}/model.keras"),
        source_cube=source_file("cube.npz"),
        source_split=source_file("split.csv"),
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
        shipped=shipped_digest() if RUN.config.studies.finetune_from == "universal" else None,
        sizes=RUN.config.studies.finetune,
        options=RUN.config.finetune.model_dump(),
        evaluate=RUN.config.evaluate.model_dump(include={"bootstrap", "confidence"}),
        guard=RUN.config.split.guard,
        experiment=lambda wildcards: RUN.experiments[wildcards.experiment].model_dump(),
        code=code_of("studies/finetune"),
    script:
        "../../scripts/studies/finetune.py"


rule sweep:
    """Gather the trainings of one study: an option of the experiments run through its values."""
    input:
        metrics=lambda wildcards: [
            f"results/{row['folder']}/{name}.json"
            for row in RUN.studies.sweep(wildcards.sweep)
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
        rows=lambda wildcards: RUN.studies.sweep(wildcards.sweep),
        code=code_of("studies/sweep"),
    script:
        "../../scripts/studies/sweep.py"


rule finder:
    """Judge the detector networks of one cube on its test images, beside detector and classifier."""
    input:
        images=finished_images,
        split="results/{telescope}/{pipeline}/split.csv",
        finders=expand(
            "results/{{telescope}}/{{pipeline}}/finder/seed{seed}/finder.onnx",
            seed=RUN.config.run.seeds,
        ),
        classifier=f"results/{{telescope}}/{{pipeline}}/{RUN.studies.beside_finder()}/seed{RUN.config.run.seeds[0]}/model.onnx",
    output:
        completeness="results/{telescope}/{pipeline}/finder/completeness.csv",
        curves="results/{telescope}/{pipeline}/finder/curves.csv",
        precision="results/{telescope}/{pipeline}/finder/precision.csv",
        stress="results/{telescope}/{pipeline}/finder/stress.csv",
        figure="results/{telescope}/{pipeline}/finder/finder.png",
    log:
        "results/logs/{telescope}/{pipeline}/finder.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/finder.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        cube=lambda wildcards: f"results/{wildcards.telescope}/{wildcards.pipeline}",
        seeds=RUN.config.run.seeds,
        options=RUN.config.finder.model_dump(),
        evaluate=RUN.config.evaluate.model_dump(include={"bootstrap", "confidence"}),
        crossmatch=step("crossmatch"),
        seed=RUN.config.seed,
        code=code_of("studies/finder"),
    script:
        "../../scripts/studies/finder.py"


rule label_noise:
    """Rank the labels of train and validation that networks trained without their image contradict."""
    input:
        cube="results/{telescope}/{pipeline}/cube.npz",
        split="results/{telescope}/{pipeline}/split.csv",
    output:
        suspects="results/{telescope}/{pipeline}/{experiment}/label_noise/suspects.csv",
        figure="results/{telescope}/{pipeline}/{experiment}/label_noise/suspects.png",
        record="results/{telescope}/{pipeline}/{experiment}/label_noise/label_noise.json",
    log:
        "results/logs/{telescope}/{pipeline}/{experiment}/label_noise.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{experiment}/label_noise.tsv"
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 360 * attempt,
        gpu=1,
    params:
        experiment=lambda wildcards: RUN.experiments[wildcards.experiment].model_dump(),
        options=RUN.config.label_noise.model_dump(),
        seed=RUN.config.seed,
        code=code_of("studies/label_noise"),
    script:
        "../../scripts/studies/label_noise.py"
