//! Shell completion: the scripts ask the program itself, which answers from the table.

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Kind;
use crate::table::{self, GROUPS};

const BASH: &str = r#"_PROGRAM_complete() {
    local IFS=$'\n'
    local candidates
    candidates=$("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    COMPREPLY=($(compgen -W "${candidates}" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _PROGRAM_complete PROGRAM
"#;
const ZSH: &str = r#"#compdef PROGRAM
_PROGRAM_complete() {
    local -a candidates
    candidates=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${candidates[1]}" ]]; then compadd -a candidates; else _files; fi
}
compdef _PROGRAM_complete PROGRAM
"#;
const FISH: &str = r#"function __PROGRAM_complete
    set -l words (commandline -opc) (commandline -ct)
    command $words[1] __complete $words[2..-1] 2>/dev/null
end
complete -c PROGRAM -a '(__PROGRAM_complete)'
"#;

/// Prints the script for a shell.
pub(crate) fn print(cx: &Context, shell: &str) -> Result<i32, Failure> {
    let script = match shell {
        "bash" => BASH,
        "zsh" => ZSH,
        "fish" => FISH,
        _ => return Err(Failure::new(format!("usage: {} completion bash|zsh|fish", cx.program))),
    };
    cx.write(script.replace("PROGRAM", &cx.program))?;
    Ok(0)
}

/// Prints what may stand in the last word's place, one a line.
pub(crate) fn complete(cx: &Context, words: &[String]) -> Result<i32, Failure> {
    for candidate in candidates(words) {
        cx.line(candidate)?;
    }
    Ok(0)
}

/// What may stand in the last word's place. Nothing is asked of the engine: completion must not start one.
fn candidates(words: &[String]) -> Vec<String> {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let names: Vec<String> = before.iter().filter(|word| !word.starts_with('-')).cloned().collect();
    let command = table::named(&names, table::find).map(|(command, _)| command);
    let mut found: Vec<String> = match (command, names.as_slice()) {
        (Some(command), _) if last.starts_with('-') => command
            .flags()
            .filter(|flag| !flag.hidden)
            .map(|flag| format!("--{}{}", flag.long, if flag.kind == Kind::Bool { "" } else { "=" }))
            .collect(),
        (Some(_), _) => Vec::new(),
        (None, []) if last.starts_with('-') => {
            table::GLOBAL.iter().map(|flag| format!("--{}", flag.long)).collect()
        }
        (None, []) => table::commands()
            .filter(|command| !command.hidden)
            .flat_map(|command| command.names())
            .chain(GROUPS.iter().map(|group| group.name))
            .filter(|name| !name.contains(' '))
            .map(str::to_owned)
            .collect(),
        (None, group) => table::commands()
            .filter(|command| !command.hidden)
            .flat_map(|command| command.names())
            .filter_map(|name| name.strip_prefix(&group.join(" "))?.strip_prefix(' '))
            .filter_map(|rest| rest.split(' ').next().map(str::to_owned))
            .collect(),
    };
    found.retain(|candidate| candidate.starts_with(last));
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::candidates;

    #[test]
    fn candidates_come_from_the_table() {
        let ask = |line: &str| candidates(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(ask("ru"), ["run"]);
        assert_eq!(ask("volume c"), ["create"]);
        assert!(ask("run --mem").contains(&"--memory=".to_owned()));
        assert!(ask("").contains(&"container".to_owned()));
        assert_eq!(ask("ps --no-t"), ["--no-trunc"]);
        assert_eq!(ask("buildx i"), ["imagetools"]);
        assert_eq!(ask("buildx imagetools "), ["create", "inspect"]);
        assert_eq!(ask("buildx imagetools create --dr"), ["--dry-run"]);
    }
}
