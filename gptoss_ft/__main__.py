"""`python -m gptoss_ft COMMAND …`"""

from gptoss_ft.cli import program

program()
