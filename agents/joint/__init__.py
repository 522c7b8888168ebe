"""The student in training: distillation by path consistency and its rivals, alone or together with asking."""
