"""Objectives in the training frameworks that people already use: one module for each of them.

Nothing here imports a framework before its module is imported: `objdsl.adapters.trl` needs TRL.
"""
