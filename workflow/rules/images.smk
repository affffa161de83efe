# The steps of one image. On a cluster they run as one job (group "image"). Priorities
# finish one image before the next begins, so that few large temporary files exist at a time.


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
        telescope=telescope_row,
        wcs=wcs_path,
        options=step("psf"),
        needs_wcs=lambda wildcards: RUN.needs_wcs(wildcards.telescope, wildcards.pipeline),
        cutout_size=lambda wildcards: RUN.config.pipelines[wildcards.pipeline].cutouts.size,
        code=code_digest("psf"),
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
        telescope=telescope_row,
        wcs=wcs_path,
        seed=RUN.config.seed,
        options=step("inject"),
        code=code_digest("inject", "real_stars"),
    script:
        "../../scripts/stars/inject.py"


rule prepare:
    """Remove cosmic rays and background from one injected image; make its mask and noise map."""
    input:
        injected="results/{telescope}/{pipeline}/images/{image}/injected.fits",
        psf_record="results/{telescope}/{pipeline}/images/{image}/psf.json",
    output:
        prepared=temp("results/{telescope}/{pipeline}/images/{image}/prepared.fits"),
    log:
        "results/logs/{telescope}/{pipeline}/{image}/prepare.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{image}/prepare.tsv"
    priority: 30
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        telescope=telescope_row,
        wcs=wcs_path,
        options=step("prepare"),
        code=code_digest("prepare"),
    script:
        "../../scripts/images/prepare.py"


rule subtract:
    """Align the reference to one prepared image, match and subtract it."""
    input:
        prepared="results/{telescope}/{pipeline}/images/{image}/prepared.fits",
        psf_record="results/{telescope}/{pipeline}/images/{image}/psf.json",
        reference=lambda wildcards: if_exists(reference_path(wildcards)),
        injected="results/{telescope}/{pipeline}/images/{image}/injected.csv",
    output:
        difference=temp("results/{telescope}/{pipeline}/images/{image}/difference.fits"),
        record="results/{telescope}/{pipeline}/images/{image}/subtract.json",
    log:
        "results/logs/{telescope}/{pipeline}/{image}/subtract.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{image}/subtract.tsv"
    priority: 40
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 15 * attempt,
    params:
        reference=reference_path,
        telescope=telescope_row,
        wcs=wcs_path,
        options=step("subtract"),
        code=code_digest("subtract", "real_stars"),
    script:
        "../../scripts/images/subtract.py"


rule detect:
    """Find the candidates of one image on its noise-weighted difference."""
    input:
        difference="results/{telescope}/{pipeline}/images/{image}/difference.fits",
        psf="results/{telescope}/{pipeline}/images/{image}/psf.fits",
        psf_record="results/{telescope}/{pipeline}/images/{image}/psf.json",
        subtract_record="results/{telescope}/{pipeline}/images/{image}/subtract.json",
        catalogue=catalogue_for("detect"),
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
        code=code_digest("detect"),
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
        code=code_digest("crossmatch"),
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
        code=code_digest("cutouts", "psf"),
    script:
        "../../scripts/candidates/cutouts.py"
