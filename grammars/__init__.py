"""The grammar of the language (`objective.lark`) and its highlighting for editors."""
