"""The stages of the pipeline, each one small script: base, validate, tokenize, train, evaluate, report."""
