"""The parts of the pipeline that its programs import: see README.md in this folder."""
