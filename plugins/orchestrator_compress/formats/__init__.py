"""Checkpoint files of compressed models: codecs of each format, reading, writing, diagnosis and conversion.

codec      what a format must be able to do           registry   the formats by name
files      JSON, safetensors, shards, companions      write      a checkpoint from layer weights
read       a checkpoint, whatever its format          model      a checkpoint as a transformers model
findings   what can be wrong with a layer, by code    doctor     all of it, for a directory
convert    from one format to another, code by code
"""
