rule psf:
    """Measure the PSF, the seeing and the depth of one science image as it came."""
    input:
        science=lambda wildcards: if_exists(science_path(wildcards)),
        catalogue=catalogue_for("psf"),
    output:
        psf="results/{telescope}/{pipeline}/images/{image}/psf.fits",
        record="results/{telescope}/{pipeline}/images/{image}/psf.json",
    log:
        "results/logs/{telescope}/{pipeline}/{image}/psf.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{image}/psf.tsv"
    priority: 10
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        science=science_path,
        detector=detector,
        wcs=wcs_path,
        options=step("psf"),
        needs_wcs=lambda wildcards: RUN.needs_wcs(wildcards.telescope, wildcards.pipeline),
        cutout_size=lambda wildcards: RUN.config.pipelines[wildcards.pipeline].cutouts.size,
        stamps=science_stamps,
        code=code_of("stars/psf"),
    script:
        "../../scripts/stars/psf.py"


rule inject:
    """Inject point sources into one science image as it came, before any cleaning."""
    input:
        science=lambda wildcards: if_exists(science_path(wildcards)),
        psf="results/{telescope}/{pipeline}/images/{image}/psf.fits",
        record="results/{telescope}/{pipeline}/images/{image}/psf.json",
    output:
        injected=temp("results/{telescope}/{pipeline}/images/{image}/injected.fits"),
        truth="results/{telescope}/{pipeline}/images/{image}/injected.csv",
    log:
        "results/logs/{telescope}/{pipeline}/{image}/inject.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{image}/inject.tsv"
    priority: 20
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 5 * attempt,
    params:
        science=science_path,
        detector=detector,
        wcs=wcs_path,
        seed=RUN.config.seed,
        options=step("inject"),
        code=code_of("stars/inject"),
    script:
        "../../scripts/stars/inject.py"
