localrules:
    track,


rule track:
    """Import every training into the MLflow store and register the best model of each telescope."""
    input:
        metrics=trainings("metrics.json", "history.csv", "train.json", "model.keras", "curves.csv", "scores.csv"),
        later=[
            f"{folder}/{name}"
            for folder in RUN.trainings(protocol="by-image")
            for name in ("gradcam.png", "model.onnx")
        ],
        tables=RUN.studies.tables(),
        finders=[
            f"{folder}/{name}" for folder in RUN.finders() for name in ("finder.json", "finder.csv", "finder.onnx")
        ],
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
        runs=with_studies(RUN.trainings()) + RUN.finders(),
        gate=RUN.config.gate.model_dump(),
        code=code_of("registry/track"),
    script:
        "../../scripts/registry/track.py"
