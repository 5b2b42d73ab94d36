"""The hands of rage: parse, run one verb, show the result."""
