rule train:
    """Train one experiment on one cube with one seed (protocol by-image: by image)."""
    input:
        cube="results/{telescope}/{pipeline}/cube.npz",
        split="results/{telescope}/{pipeline}/split.csv",
    output:
        model="results/{telescope}/{pipeline}/{experiment}/seed{seed}/model.keras",
        history="results/{telescope}/{pipeline}/{experiment}/seed{seed}/history.csv",
        record="results/{telescope}/{pipeline}/{experiment}/seed{seed}/train.json",
    log:
        "results/logs/{telescope}/{pipeline}/{experiment}/seed{seed}/train.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{experiment}/seed{seed}/train.tsv"
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
        gpu=1,
    params:
        experiment=lambda wildcards: RUN.experiments[wildcards.experiment].model_dump(),
        protocol="by-image",
        tuned=tuned_from,
        code=code_of("networks/train"),
    script:
        "../../scripts/networks/train.py"


use rule train as train_random with:
    input:
        cube="results/{telescope}/{pipeline}/cube.npz",
        split="results/{telescope}/{pipeline}/split_random.csv",
    output:
        model="results/{telescope}/{pipeline}/{experiment}/seed{seed}/random/model.keras",
        history="results/{telescope}/{pipeline}/{experiment}/seed{seed}/random/history.csv",
        record="results/{telescope}/{pipeline}/{experiment}/seed{seed}/random/train.json",
    log:
        "results/logs/{telescope}/{pipeline}/{experiment}/seed{seed}/random/train.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{experiment}/seed{seed}/random/train.tsv"
    params:
        experiment=lambda wildcards: RUN.experiments[wildcards.experiment].model_dump(),
        protocol="random",
        tuned=tuned_from,
        code=code_of("networks/train"),


rule train_finder:
    """Train the detector network on the images of one cube with one seed."""
    input:
        images=finished_images,
        split="results/{telescope}/{pipeline}/split.csv",
    output:
        onnx="results/{telescope}/{pipeline}/finder/seed{seed}/finder.onnx",
        history="results/{telescope}/{pipeline}/finder/seed{seed}/finder.csv",
        record="results/{telescope}/{pipeline}/finder/seed{seed}/finder.json",
    log:
        "results/logs/{telescope}/{pipeline}/finder/seed{seed}/train_finder.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/finder/seed{seed}/train_finder.tsv"
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
        gpu=1,
    params:
        cube=lambda wildcards: f"results/{wildcards.telescope}/{wildcards.pipeline}",
        options=RUN.config.finder.model_dump(),
        crossmatch=step("crossmatch"),
        code=code_of("networks/train_finder"),
    script:
        "../../scripts/networks/train_finder.py"


rule explain:
    """Draw Grad-CAM maps of one model's decisions, and score cutouts without their neighbours."""
    input:
        cube="results/{telescope}/{pipeline}/cube.npz",
        model="results/{telescope}/{pipeline}/{experiment}/seed{seed}/model.keras",
        scores="results/{telescope}/{pipeline}/{experiment}/seed{seed}/scores.csv",
        metrics="results/{telescope}/{pipeline}/{experiment}/seed{seed}/metrics.json",
    output:
        gradcam="results/{telescope}/{pipeline}/{experiment}/seed{seed}/gradcam.npz",
        figure="results/{telescope}/{pipeline}/{experiment}/seed{seed}/gradcam.png",
        neighbours="results/{telescope}/{pipeline}/{experiment}/seed{seed}/neighbours.csv",
        record="results/{telescope}/{pipeline}/{experiment}/seed{seed}/explain.json",
    log:
        "results/logs/{telescope}/{pipeline}/{experiment}/seed{seed}/explain.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{experiment}/seed{seed}/explain.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        options=RUN.config.explain.model_dump(),
        seed=RUN.config.seed,
        code=code_of("networks/explain"),
    script:
        "../../scripts/networks/explain.py"


rule export_onnx:
    """Write one model as ONNX, with everything needed for classification, for pipelines without TensorFlow."""
    input:
        cube="results/{telescope}/{pipeline}/cube.npz",
        model="results/{telescope}/{pipeline}/{experiment}/seed{seed}/model.keras",
        train_record="results/{telescope}/{pipeline}/{experiment}/seed{seed}/train.json",
        scores="results/{telescope}/{pipeline}/{experiment}/seed{seed}/scores.csv",
        metrics="results/{telescope}/{pipeline}/{experiment}/seed{seed}/metrics.json",
    output:
        onnx="results/{telescope}/{pipeline}/{experiment}/seed{seed}/model.onnx",
    log:
        "results/logs/{telescope}/{pipeline}/{experiment}/seed{seed}/export_onnx.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{experiment}/seed{seed}/export_onnx.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        seed=RUN.config.seed,
        recipe=lambda wildcards: RUN.recipe(wildcards.telescope, wildcards.pipeline),
        code=code_of("networks/export_onnx"),
    script:
        "../../scripts/networks/export_onnx.py"
