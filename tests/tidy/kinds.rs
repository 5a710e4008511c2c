//! The job kinds that come with the repository.

use std::process::Command;

use commands::jobs::{Actions, Kinds};
use domain::{KindName, SecretName};

use super::{assert_none, files, root};

fn kinds() -> Kinds {
    Kinds::load(&root().join("daybook.toml"), &Actions::built_in())
        .unwrap_or_else(|problems| panic!("daybook.toml: {problems:?}"))
}

#[test]
fn the_kinds_that_come_with_daybook_are_valid() {
    let kinds = kinds();
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    assert_eq!(names, ["database-backup", "disk-report", "http-check"]);
    for kind in kinds.iter() {
        assert!(KindName::parse(kind.name()).is_ok(), "{}", kind.name());
        for secret in kind.secrets().values() {
            assert!(SecretName::parse(secret).is_ok(), "{}: {secret}", kind.name());
        }
    }
}

/// Jobs start in the folder of the file, so that `jobs/x.py` is found from there.
#[test]
fn the_scripts_they_run_exist() {
    let url = serde_json::json!({ "url": "https://example.org/health?x=1" });
    let argument = |kind: &commands::jobs::Kind| match kind.name() {
        "http-check" => url.as_object().unwrap().clone(),
        _ => serde_json::Map::new(),
    };
    let outline =
        |kind: &commands::jobs::Kind| kind.action().outline(&kind.validate(&argument(kind)).unwrap());
    let commands = kinds().iter().map(outline).collect::<Vec<_>>();
    let scripts = commands.iter().flatten().filter(|argument| argument.ends_with(".py"));
    let missing = scripts.clone().filter(|script| !root().join(script).is_file());
    assert_none("scripts that are not there", &missing.cloned().collect::<Vec<_>>());
    assert_eq!(scripts.count(), 3);
}

#[test]
fn the_scripts_are_python() {
    let compile = "import sys; [compile(open(path).read(), path, 'exec') for path in sys.argv[1:]]";
    let scripts = files("jobs", ".py").into_iter().map(|file| file.path);
    let Ok(checked) =
        Command::new("python3").args(["-c", compile]).args(scripts).current_dir(root()).output()
    else {
        return; // no Python on this machine: these kinds cannot run here
    };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
