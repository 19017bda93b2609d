"""`tensorchain completion`: a script that completes commands, options and values, for bash, zsh or fish.

The script is written from the parser itself, so it knows every option that --help knows: options with the words they
choose from, and files where a name is asked for.  It holds no code but completion, and runs nothing of this package
when a key is pressed.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Any

from tensorchain.cli.errors import EXIT_STATUS, Status
from tensorchain.cli.output import write

DESCRIPTION = """\
Print a script that completes commands, options, values and file names on the TAB key.
"""

EPILOG = f"""\
examples:
  tensorchain completion bash > ~/.local/share/bash-completion/completions/tensorchain
  eval "$(tensorchain completion bash)"                # or this line, in ~/.bashrc
  tensorchain completion zsh > ~/.zfunc/_tensorchain   # with fpath+=~/.zfunc before compinit, in ~/.zshrc
  tensorchain completion fish > ~/.config/fish/completions/tensorchain.fish

{EXIT_STATUS}"""

_FILES = re.compile("FILE|FIT|DIR|IMAGES|HOW")
"""Metavars that stand for the name of a file or folder."""


@dataclass(frozen=True)
class Word:
    """An option, or a positional argument (without flags).

    Attributes
    ----------
    flags : tuple of str
        Such as --out; none for a positional argument.
    about : str
        Its help, in one line.
    choices : tuple of str
        The words to choose from.
    metavar : str
        What stands for its value; empty for a switch.
    repeats : bool
        Whether it may be given again.
    """

    flags: tuple[str, ...]
    about: str
    choices: tuple[str, ...]
    metavar: str
    repeats: bool

    @property
    def files(self) -> bool:
        """Whether its value is the name of a file."""
        return not self.choices and bool(_FILES.search(self.metavar))


@dataclass(frozen=True)
class Command:
    """A command: its name, its help in one line, and what it takes."""

    name: str
    about: str
    words: tuple[Word, ...]

    @property
    def options(self) -> tuple[Word, ...]:
        """What begins with a dash."""
        return tuple(word for word in self.words if word.flags)

    @property
    def positional(self) -> tuple[Word, ...]:
        """What does not."""
        return tuple(word for word in self.words if not word.flags)


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "completion",
        help="print a completion script for bash, zsh or fish",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def run(arguments: argparse.Namespace) -> Status:
    """Print the script."""
    write(SHELLS[arguments.shell](*described(arguments.program)))
    return Status.OK


def described(parser: argparse.ArgumentParser) -> tuple[Command, list[Command]]:
    """The program's own options, and its commands."""
    actions = parser._actions
    [commands] = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    helps = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    own = Command(parser.prog, "", tuple(_word(action) for action in actions if action is not commands))
    listed = [Command(name, helps[name], tuple(map(_word, one._actions))) for name, one in commands.choices.items()]
    return own, listed


def _word(action: argparse.Action) -> Word:
    choices = tuple(map(str, action.choices or ()))
    metavar = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    about = " ".join((action.help or "").split())
    repeats = isinstance(action, argparse._AppendAction) or action.nargs in ("*", "+")
    return Word(tuple(action.option_strings), about, choices, metavar, repeats)


# -- bash -----------------------------------------------------------------------------------


def bash(own: Command, commands: list[Command]) -> str:
    """For bash 3.2 and newer.  Where no word is offered, bash completes file names."""
    values, words = [], []
    for command in commands:
        for option in command.options:
            keys = "|".join(f"{command.name}:{flag}" for flag in option.flags)
            if option.choices:
                values.append(f'        {keys}) words="{" ".join(option.choices)}" ;;')
            elif option.metavar:
                values.append(f"        {keys}) return ;;")
        flags = " ".join(flag for option in command.options for flag in option.flags)
        words.append(f'            {command.name}:-*) words="{flags}" ;;')
        choices = [choice for word in command.positional for choice in word.choices]
        if choices:
            words.append(f'            {command.name}:*) words="{" ".join(choices)}" ;;')
    names = [command.name for command in commands]
    flags = " ".join(flag for option in own.options for flag in option.flags)
    lines = [
        f"# bash completion of {own.name}",
        f"_{own.name}() {{",
        "    local current previous command= words= word",
        "    current=${COMP_WORDS[COMP_CWORD]}",
        "    previous=${COMP_WORDS[COMP_CWORD-1]}",
        "    COMPREPLY=()",
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        f"        case $word in {'|'.join(names)}) command=$word; break ;; esac",
        "    done",
        '    case "$command:$previous" in',
        *values,
        "    esac",
        "    if [[ -z $words ]]; then",
        '        case "$command:$current" in',
        f'            :-*) words="{flags}" ;;',
        f'            :*) words="{" ".join(names)}" ;;',
        *words,
        "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        f"complete -o default -F _{own.name} {own.name}",
    ]
    return "\n".join(lines) + "\n"


# -- zsh ------------------------------------------------------------------------------------


def zsh(own: Command, commands: list[Command]) -> str:
    """For zsh, as a file _tensorchain on the fpath, or by eval."""
    lines = [
        f"#compdef {own.name}",
        "",
        f"_{own.name}() {{",
        "    local state line context",
        "    typeset -A opt_args",
        "    local -a commands",
        "    commands=(",
        *(f"        {_quoted(f'{command.name}:{command.about}')}" for command in commands),
        "    )",
        "    _arguments -C \\",
        *(f"        {spec} \\" for option in own.options for spec in _zsh_specs(option)),
        "        '1:command:->command' '*::argument:->argument'",
        "    case $state in",
        f"        command) _describe -t commands '{own.name} command' commands ;;",
        "        argument)",
        "            case $line[1] in",
    ]
    for command in commands:
        specs = [spec for option in command.options for spec in _zsh_specs(option)]
        specs += [_zsh_positional(word, place + 1) for place, word in enumerate(command.positional)]
        lines += [f"                {command.name})", "                    _arguments \\"]
        lines += [f"                        {spec} \\" for spec in specs[:-1]]
        lines += [f"                        {specs[-1]} ;;"]
    lines += [
        "            esac ;;",
        "    esac",
        "}",
        "",
        f'if [[ "$funcstack[1]" == _{own.name} ]]; then',
        f'    _{own.name} "$@"',
        "else",
        f"    compdef _{own.name} {own.name}",
        "fi",
    ]
    return "\n".join(lines) + "\n"


def _zsh_specs(option: Word) -> list[str]:
    """One `_arguments` specification for each flag."""
    about = re.sub(r"([\[\]:\\])", r"\\\1", option.about)
    others = "*" if option.repeats else f"({' '.join(option.flags)})"
    return [_quoted(f"{others}{flag}[{about}]{_zsh_value(option)}") for flag in option.flags]


def _zsh_positional(word: Word, place: int) -> str:
    return _quoted(f"{'*' if word.repeats else place}{_zsh_value(word)}")


def _zsh_value(word: Word) -> str:
    if not word.metavar:
        return ""
    offer = f"({' '.join(word.choices)})" if word.choices else "_files" if word.files else " "
    return f":{word.metavar.replace(':', ' ')}:{offer}"


# -- fish -----------------------------------------------------------------------------------


def fish(own: Command, commands: list[Command]) -> str:
    """For fish 3 and newer."""
    lines = [f"# fish completion of {own.name}", f"complete -c {own.name} -f"]
    for command in commands:
        about = f"-a {command.name} -d {_fish_quoted(command.about)}"
        lines.append(f"complete -c {own.name} -n __fish_use_subcommand {about}")
    lines += [_fish_option(own.name, "__fish_use_subcommand", option) for option in own.options]
    for command in commands:
        inside = f"__fish_seen_subcommand_from {command.name}"
        lines += [_fish_option(own.name, inside, option) for option in command.options]
        for word in command.positional:
            offer = f"-a {_fish_quoted(' '.join(word.choices))}" if word.choices else "-F" if word.files else ""
            if offer:
                lines.append(f"complete -c {own.name} -n {_fish_quoted(inside)} {offer}")
    return "\n".join(lines) + "\n"


def _fish_option(program: str, condition: str, option: Word) -> str:
    flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
    value = ""
    if option.choices:
        value = f" -x -a {_fish_quoted(' '.join(option.choices))}"
    elif option.metavar:
        value = " -r -F" if option.files else " -x"
    return f"complete -c {program} -n {_fish_quoted(condition)} {flags}{value} -d {_fish_quoted(option.about)}"


def _quoted(text: str) -> str:
    """For bash and zsh: single quotes, in which nothing is special but the quote itself."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    """For fish, where a backslash escapes the quote, and itself, inside single quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
