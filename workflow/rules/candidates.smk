rule detect:
    """Find the candidates of one image on its noise-weighted difference."""
    input:
        difference="results/{telescope}/{pipeline}/images/{image}/difference.fits",
        psf="results/{telescope}/{pipeline}/images/{image}/psf.fits",
        psf_record="results/{telescope}/{pipeline}/images/{image}/psf.json",
        subtract_record="results/{telescope}/{pipeline}/images/{image}/subtract.json",
        catalogue=catalogue_for("detect"),
        finder=finder_file,
    output:
        candidates="results/{telescope}/{pipeline}/images/{image}/candidates.csv",
    log:
        "results/logs/{telescope}/{pipeline}/{image}/detect.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{image}/detect.tsv"
    priority: 50
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        wcs=wcs_path,
        options=step("detect"),
        size=lambda wildcards: RUN.config.pipelines[wildcards.pipeline].cutouts.size,
        code=code_of("candidates/detect"),
    script:
        "../../scripts/candidates/detect.py"


rule crossmatch:
    """Label the candidates of one image from its injected sources and the known objects."""
    input:
        candidates="results/{telescope}/{pipeline}/images/{image}/candidates.csv",
        injected="results/{telescope}/{pipeline}/images/{image}/injected.csv",
        psf_record="results/{telescope}/{pipeline}/images/{image}/psf.json",
        subtract_record="results/{telescope}/{pipeline}/images/{image}/subtract.json",
        sky_truth=sky_truth,
        known=known_objects,
    output:
        labelled="results/{telescope}/{pipeline}/images/{image}/labelled.csv",
        record="results/{telescope}/{pipeline}/images/{image}/crossmatch.json",
    log:
        "results/logs/{telescope}/{pipeline}/{image}/crossmatch.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{image}/crossmatch.tsv"
    priority: 60
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 5 * attempt,
    params:
        options=step("crossmatch"),
        code=code_of("candidates/crossmatch"),
    script:
        "../../scripts/candidates/crossmatch.py"


rule cutouts:
    """Cut difference, science, reference, mask and PSF around the candidates of one image."""
    input:
        labelled="results/{telescope}/{pipeline}/images/{image}/labelled.csv",
        difference="results/{telescope}/{pipeline}/images/{image}/difference.fits",
        psf="results/{telescope}/{pipeline}/images/{image}/psf.fits",
        psf_record="results/{telescope}/{pipeline}/images/{image}/psf.json",
        subtract_record="results/{telescope}/{pipeline}/images/{image}/subtract.json",
    output:
        cutouts="results/{telescope}/{pipeline}/images/{image}/cutouts.npz",
    log:
        "results/logs/{telescope}/{pipeline}/{image}/cutouts.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{image}/cutouts.tsv"
    priority: 70
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 5 * attempt,
    params:
        options=step("cutouts"),
        field=lambda wildcards: RUN.inputs.field(wildcards.telescope, wildcards.image),
        code=code_of("candidates/cutouts"),
    script:
        "../../scripts/candidates/cutouts.py"
