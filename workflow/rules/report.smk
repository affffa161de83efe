localrules:
    all,
    report,


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
        splits=expand("results/{cube}/{name}.csv", cube=RUN.config.run.cubes, name=["split", "split_random"]),
        metrics=trainings("metrics.json", "history.csv", "scores.csv", "curves.csv"),
        gradcam=[
            f"{folder}/{name}"
            for folder in RUN.trainings(protocol="by-image")
            for name in ("gradcam.npz", "explain.json")
        ],
        studies=RUN.studies.tables(),
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
        rows=report_rows(),
        code=code_of("report/report"),
    script:
        "../../scripts/report/report.py"
