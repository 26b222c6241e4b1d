"""A user's own network: an ONNX or OpenVINO file with its contract, whatever runtime executes it.

``onnx_file`` reads the file and ``contract`` what stands beside it; ``template`` writes one to fill in. ``ports`` and
``outputs`` say what goes in and what comes out; ``trial`` runs a file first in a process that may die.
"""
