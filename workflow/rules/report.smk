localrules:
    all,
    summary,
    track,
    report,


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
        images={telescope: RUN.images(telescope) for telescope in RUN.used_telescopes()},
        runs=RUN.trainings(),
        bootstrap=RUN.config.evaluate.bootstrap,
        confidence=RUN.config.evaluate.confidence,
        seed=RUN.config.seed,
        code=code_digest("summary", "comparison", "experiments"),
    script:
        "../../scripts/evaluation/summary.py"


rule track:
    """Import every training into the MLflow store and register the best model of each telescope."""
    input:
        metrics=trainings("metrics.json", "history.csv", "train.json", "model.keras", "curves.csv", "scores.csv"),
        later=[
            f"{folder}/{name}"
            for folder in RUN.trainings(protocol="grouped")
            for name in ("gradcam.png", "model.onnx")
        ],
        tables=RUN.study_tables(),
        studies=expand("results/studies/{sweep}.csv", sweep=RUN.config.studies.sweeps),
    output:
        record="results/mlflow.json",
    log:
        "results/logs/track.log",
    benchmark:
        "results/benchmarks/track.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        store="results/mlflow.db",
        runs=with_studies(RUN.trainings()),
        gate=RUN.config.gate.model_dump(),
        code=code_digest("track"),
    script:
        "../../scripts/registry/track.py"


rule report:
    """Write the report page of the run."""
    input:
        summary="results/summary.csv",
        quality="results/quality.csv",
        pipelines="results/pipelines.csv",
        artefacts="results/artefacts.csv",
        telescopes="results/telescopes.csv",
        experiments="results/experiments.csv",
        mcnemar="results/mcnemar.csv",
        cubes=expand("results/{cube}/cube.npz", cube=RUN.config.run.cubes),
        splits=expand("results/{cube}/{name}.csv", cube=RUN.config.run.cubes, name=["split", "split_paper"]),
        metrics=trainings("metrics.json", "history.csv", "scores.csv", "curves.csv"),
        gradcam=[
            f"{folder}/{name}"
            for folder in RUN.trainings(protocol="grouped")
            for name in ("gradcam.npz", "explain.json")
        ],
        studies=RUN.study_tables(),
        sweeps=expand("results/studies/{sweep}.csv", sweep=RUN.config.studies.sweeps),
        mlflow="results/mlflow.json",
    output:
        report="results/report.html",
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        cubes=RUN.config.run.cubes,
        runs=RUN.trainings(),
        config=RUN.config.model_dump(mode="json"),
        rows={name: RUN.telescopes[name].model_dump() for name in RUN.used_telescopes()},
        code=code_digest("report"),
    script:
        "../../scripts/report/report.py"
