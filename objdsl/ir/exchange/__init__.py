"""Objectives to JSON and back, by the models of `objdsl.ir.schema`."""
