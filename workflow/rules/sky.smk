# Compute nodes often have no network: these run where snakemake does.
localrules:
    fetch_catalogue,
    survey_reference,


rule simulate:
    """Simulate a science image, its reference and the truth, for one image of a simulated telescope."""
    output:
        science=temp("results/{telescope}/sky/{image}/science.fits"),
        reference=temp("results/{telescope}/sky/{image}/reference.fits"),
        truth="results/{telescope}/sky/{image}/truth.csv",
    log:
        "results/logs/{telescope}/sky/{image}/simulate.log",
    benchmark:
        "results/benchmarks/{telescope}/sky/{image}/simulate.tsv"
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        telescope=lambda wildcards: RUN.inputs.simulated(wildcards.telescope),
        index=lambda wildcards: RUN.inputs.number(wildcards.telescope, wildcards.image),
        seed=RUN.config.seed,
        code=code_of("sky/simulate"),
    script:
        "../../scripts/sky/simulate.py"


# What steps of an image wait for comes first (priority), or every prepared frame would wait for it on the disk.


rule reference:
    """Stack the reference frames of one field of a telescope."""
    input:
        frames=lambda wildcards: [
            found
            for path in RUN.inputs.reference_frames(wildcards.telescope, wildcards.field)
            if (found := if_exists(path))
        ],
    output:
        reference="results/{telescope}/sky/{field}.reference.fits",
        record="results/{telescope}/sky/{field}.reference.json",
    log:
        "results/logs/{telescope}/sky/{field}/reference.log",
    benchmark:
        "results/benchmarks/{telescope}/sky/{field}/reference.tsv"
    priority: 100
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        frames=lambda wildcards: RUN.inputs.reference_frames(wildcards.telescope, wildcards.field),
        detector=detector,
        wcs=lambda wildcards: RUN.inputs.reference_wcs(wildcards.telescope, wildcards.field),
        stamps=lambda wildcards: RUN.inputs.reference_stamps(wildcards.telescope, wildcards.field),
        code=code_of("sky/reference"),
    script:
        "../../scripts/sky/reference.py"


rule simulated_catalogue:
    """Star catalogue and known objects of one simulated image, as an observer has them."""
    input:
        science="results/{telescope}/sky/{image}/science.fits",
        truth="results/{telescope}/sky/{image}/truth.csv",
    output:
        catalogue="results/{telescope}/sky/{image}/catalogue.csv",
        known="results/{telescope}/sky/{image}/known.csv",
    log:
        "results/logs/{telescope}/sky/{image}/simulated_catalogue.log",
    benchmark:
        "results/benchmarks/{telescope}/sky/{image}/catalogue.tsv"
    wildcard_constraints:
        telescope=telescopes_where(is_simulated),
    priority: 100
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 5 * attempt,
    params:
        beta=lambda wildcards: RUN.telescopes[wildcards.telescope].sky.psf_beta,
        seed=RUN.config.seed,
        code=code_of("sky/simulated_catalogue"),
    script:
        "../../scripts/sky/simulated_catalogue.py"


rule catalogue:
    """Star catalogue and known objects of one image, from local files."""
    input:
        science=lambda wildcards: if_exists(science_path(wildcards)),
    output:
        catalogue="results/{telescope}/sky/{image}/catalogue.csv",
        known="results/{telescope}/sky/{image}/known.csv",
    log:
        "results/logs/{telescope}/sky/{image}/catalogue.log",
    benchmark:
        "results/benchmarks/{telescope}/sky/{image}/catalogue.tsv"
    wildcard_constraints:
        telescope=telescopes_where(lambda name: not is_simulated(name) and not RUN.inputs.asks_network(name)),
    priority: 100
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 5 * attempt,
    params:
        science=science_path,
        detector=detector,
        wcs=wcs_path,
        source=catalogue_of("catalogue"),
        known_source=catalogue_of("known"),
        cache=NETWORK_CACHE,
        stamps=catalogue_stamps,
        code=code_of("sky/catalogue"),
    script:
        "../../scripts/sky/catalogue.py"


rule fetch_catalogue:
    """Star catalogue and known objects of one image, in part from network services."""
    input:
        science=lambda wildcards: if_exists(science_path(wildcards)),
    output:
        catalogue="results/{telescope}/sky/{image}/catalogue.csv",
        known="results/{telescope}/sky/{image}/known.csv",
    log:
        "results/logs/{telescope}/sky/{image}/fetch_catalogue.log",
    benchmark:
        "results/benchmarks/{telescope}/sky/{image}/fetch_catalogue.tsv"
    wildcard_constraints:
        telescope=telescopes_where(lambda name: not is_simulated(name) and RUN.inputs.asks_network(name)),
    priority: 100
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        science=science_path,
        detector=detector,
        wcs=wcs_path,
        source=catalogue_of("catalogue"),
        known_source=catalogue_of("known"),
        cache=NETWORK_CACHE,
        stamps=catalogue_stamps,
        code=code_of("sky/catalogue"),
    script:
        "../../scripts/sky/catalogue.py"


rule survey_reference:
    """Fetch the reference of one image from a survey of the sky (hips2fits)."""
    input:
        science=lambda wildcards: if_exists(science_path(wildcards)),
    output:
        reference="results/{telescope}/sky/{image}.survey.fits",
    log:
        "results/logs/{telescope}/sky/{image}/survey_reference.log",
    benchmark:
        "results/benchmarks/{telescope}/sky/{image}/survey_reference.tsv"
    priority: 100
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        science=science_path,
        detector=detector,
        wcs=wcs_path,
        hips=lambda wildcards: RUN.inputs.hips(wildcards.telescope, wildcards.image),
        cache=NETWORK_CACHE,
        stamps=science_stamps,
        code=code_of("sky/survey_reference"),
    script:
        "../../scripts/sky/survey_reference.py"
