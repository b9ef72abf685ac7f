"""The verb that prints what completes words in a shell: completion."""

import re
from typing import Annotated, Any

import typer

from anabranch.declare.loading import load_project
from anabranch.errors import MisuseError
from anabranch.values.names import listed
from jobs.show import say
from jobs.wiring.settings import load_settings

SHELLS = ("bash", "zsh", "fish")
_PLACES = ("PROJECT", "SOURCE", "VERSION", "FILE")
_BASH = """\
# Completion of anabranch for {shell}. Verbs and options stand here; names of projects are those of files, and
# only sources and versions ask anabranch.
_anabranch_projects() {{
  local folder file
  for folder in {folder} ${{ANABRANCH_PROJECTS//:/ }}; do
    for file in "$folder"/*.py "$folder"/*/__init__.py; do
      [ -e "$file" ] || continue
      file=${{file%/__init__.py}}; file=${{file##*/}}; file=${{file%.py}}
      [ "$file" = __init__ ] || echo "$file"
    done
  done
}}
_anabranch() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} verb="" place=0 words="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${{COMP_WORDS[i]}} in
      -*) ;;
      *) if [ -z "$verb" ]; then verb=${{COMP_WORDS[i]}}; else place=$((place + 1)); fi ;;
    esac
  done
  COMPREPLY=()
  if [ -z "$verb" ]; then
    COMPREPLY=($(compgen -W "{verbs} --debug --help" -- "$word")); return
  fi
  if [[ $word == -* ]]; then
    case $verb in
{options}
    esac
    COMPREPLY=($(compgen -W "$words --help" -- "$word")); return
  fi
  case $verb:$place in
{arguments}
    *) COMPREPLY=($(compgen -f -- "$word")); return ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o filenames -F _anabranch anabranch
"""
_FISH = """\
# Completion of anabranch for fish.
function __anabranch_projects
  for folder in {folder} (string split : -- $ANABRANCH_PROJECTS)
    for file in $folder/*.py $folder/*/__init__.py
      set -l name (string replace -r '(/__init__)?\\\\.py$' '' $file | string replace -r '.*/' '')
      test $name = __init__; or echo $name
    end
  end
end
complete -c anabranch -f -n __fish_use_subcommand -a '{verbs}'
{lines}
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def completion(
        context: typer.Context,
        shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
        project: Annotated[str | None, typer.Argument(hidden=True)] = None,
    ) -> None:
        """Print what completes verbs, options and names in a shell: eval "$(anabranch completion bash)"."""
        if shell in ("sources", "versions") and project:
            say(" ".join(names_of(shell, project)))
            return
        if shell not in SHELLS:
            raise MisuseError(f"no completion for {shell!r}: {listed(shell, SHELLS, 'there is one for')}")
        say(script(shell, context.find_root().command).rstrip())


def names_of(kind: str, name: str) -> list[str]:
    """The names of a project's sources, or the numbers of its model's versions."""
    settings = load_settings()
    if kind == "sources":
        return list(load_project(name, settings.projects).sources)
    from anabranch.stores.models.light import LightRegistry

    light = LightRegistry.at(settings.models.tracking_uri)
    found = [] if light is None else light.search_model_versions(f"name = '{name}'")
    return [str(each.version) for each in found]


def script(shell: str, group: Any) -> str:
    """The script of a shell for a group of verbs."""
    verbs = {name: command for name, command in sorted(group.commands.items()) if not command.hidden}
    options = {
        name: [opt for each in command.params for opt in _options(each)] for name, command in verbs.items()
    }
    places = {
        name: [_place(each) for each in command.params if not _options(each)]
        for name, command in verbs.items()
    }
    folder = str(load_settings().projects[0])
    if shell == "fish":
        lines = []
        for name, words in options.items():
            seen = f"-n '__fish_seen_subcommand_from {name}'"
            lines += [f"complete -c anabranch {seen} -l {word.removeprefix('--')}" for word in words]
            if "PROJECT" in places[name]:
                lines.append(f"complete -c anabranch {seen} -f -a '(__anabranch_projects)'")
        return _FISH.format(folder=folder, verbs=" ".join(verbs), lines="\n".join(lines))
    below = {name: getattr(command, "commands", {}) for name, command in verbs.items()}
    text = _BASH.format(
        shell=shell,
        folder=folder,
        verbs=" ".join(verbs),
        options="\n".join(f'      {name}) words="{" ".join(words)}" ;;' for name, words in options.items()),
        arguments="\n".join(_arguments(places, below)),
    )
    return f"autoload -U +X bashcompinit && bashcompinit\n{text}" if shell == "zsh" else text


def _options(parameter: Any) -> list[str]:
    return [word for word in getattr(parameter, "opts", ()) if word.startswith("--")]


def _place(parameter: Any) -> str:
    """What an argument names, by its metavar."""
    metavar = str(parameter.metavar or parameter.name).upper()
    return next((place for place in _PLACES if re.search(rf"\b{place}\b", metavar)), "")


def _arguments(places: dict[str, list[str]], below: dict[str, Any]) -> list[str]:
    lines = []
    words = {
        "PROJECT": "$(_anabranch_projects)",
        "SOURCE": '$(anabranch completion sources "${COMP_WORDS[2]}" 2>/dev/null)',
        "VERSION": '$(anabranch completion versions "${COMP_WORDS[2]}" 2>/dev/null)',
    }
    for name, commands in below.items():
        if commands:
            lines.append(f'    {name}:0) words="{" ".join(commands)}" ;;')
    for name, each in places.items():
        lines += [
            f'    {name}:{position}) words="{words[place]}" ;;'
            for position, place in enumerate(each)
            if place in words and not below[name]
        ]
    return lines
