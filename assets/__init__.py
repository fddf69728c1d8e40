"""Software-defined assets and their checks, one module a stage; what they compute lives in ``atlas_pipeline``."""
