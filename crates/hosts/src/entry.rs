//! How a program that made a rig becomes the init of one of its hosts.
//!
//! A test binary has no `main` of ours, and a file of its own would have to be found and kept current. So whatever links
//! this crate carries the init in it: a function that the loader calls before `main` looks for a variable in the
//! environment, which only a rig sets, and for anyone else returns at once.

#![expect(unsafe_code, reason = "naming the section of the loader's list has no safe form")]

use crate::boot;
use std::ffi::OsString;
use std::path::Path;
use std::process;

/// Which stage this process is to be.
pub(crate) const STAGE: &str = "UNDERSTUDY_HOSTS_STAGE";
/// The file that says how the host is to be.
pub(crate) const PLAN: &str = "UNDERSTUDY_HOSTS_PLAN";
/// Makes the namespaces, and waits for the init.
pub(crate) const OUTER: &str = "outer";
/// Process 1.
pub(crate) const INIT: &str = "init";

/// In the loader's list. Whoever makes a rig reads it, so that the linker keeps it.
// SAFETY: `.init_array` holds functions of this type that the C library calls once, before `main`; the standard library's
// own entry has run by then. What is called allocates, opens files and starts threads, all of which work at this point.
#[used]
#[unsafe(link_section = ".init_array")]
pub(crate) static ENTRY: extern "C" fn() = enter;

extern "C" fn enter() {
    if let (Some(stage), Some(plan)) = (std::env::var_os(STAGE), std::env::var_os(PLAN)) {
        process::exit(become_stage(&stage, &plan));
    }
}

fn become_stage(stage: &OsString, plan: &OsString) -> i32 {
    let plan = Path::new(plan);
    let outcome = match stage.to_str() {
        Some(OUTER) => boot::outer(plan),
        Some(INIT) => boot::init(plan),
        _ => Err(std::io::Error::other(format!("no stage {}", stage.display()))),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}
