//! The few calls that no safe wrapper covers: starting a process, waiting for a descriptor, asking how a foreign process ended.
//!
//! A start is `clone` with `CLONE_VFORK`: the calling thread waits until the child has executed its program or failed, so
//! the report of what failed needs no pipe, only a shared page. Unless the user changes, the child also borrows the
//! agent's memory (`CLONE_VM`), so a start costs the same however big the agent is. With a change of user it does
//! not, because the kernel would mark the shared memory, and so the agent, as not dumpable.
//!
//! A child is born into its cgroup (`clone3` with `CLONE_INTO_CGROUP`) where that is possible. Moving it there
//! afterwards works everywhere, but the kernel then waits for a grace period: ten milliseconds instead of one.

#![expect(
    unsafe_code,
    reason = "clone, the calls between it and exec, and an ioctl have no safe wrapper, nor has the runtime's watch over a descriptor"
)]

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Enough for the child's one frame and libc's; nothing recursive runs on it.
const STACK_BYTES: usize = 64 * 1024;
/// Numbers of signals reach to 64 on every Linux platform that Rust's std supports, MIPS aside.
const SIGNAL_MAX: c_int = 64;
const SIGNAL_SET_BYTES: usize = SIGNAL_MAX as usize / 8;

/// All that a child needs, made ready: between `clone` and `execve` nothing may allocate.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The file to execute, absolute.
    pub(crate) program: CString,
    pub(crate) args: Vec<CString>,
    /// `NAME=value`.
    pub(crate) env: Vec<CString>,
    pub(crate) dir: CString,
    pub(crate) stdin: OwnedFd,
    /// Both stdout and stderr.
    pub(crate) output: OwnedFd,
    pub(crate) cgroup: Option<Cgroup>,
    /// Set as soft and as hard limit.
    pub(crate) limits: Vec<(Limit, u64)>,
    pub(crate) identity: Option<Identity>,
}

/// The cgroup to join.
#[derive(Debug)]
pub(crate) struct Cgroup {
    pub(crate) dir: OwnedFd,
    /// Its `cgroup.procs`.
    pub(crate) procs: OwnedFd,
}

/// Whom to become.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// A resource that can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    OpenFiles,
    Processes,
    Memory,
    Core,
}

/// What a child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Step {
    /// `clone` itself, in the parent.
    Fork,
    Session,
    Stdio,
    Cgroup,
    Limits,
    Identity,
    Dir,
    Exec,
}

/// A start that failed; no process is left of it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    /// Which limit, when `step` is `Limits`.
    pub(crate) limit: usize,
    pub(crate) error: io::Error,
}

/// Starts a process, in a session of its own. Blocks until it executes its program: a fraction of a millisecond.
pub(crate) fn spawn(plan: &Plan) -> Result<(u32, OwnedFd), Failure> {
    let fork_failed = |error| Failure {
        step: Step::Fork,
        limit: 0,
        error,
    };
    let report = Shared::new().map_err(|error| fork_failed(error.into()))?;
    let mut child = Child {
        program: plan.program.as_ptr(),
        args: pointers(&plan.args),
        env: pointers(&plan.env),
        dir: plan.dir.as_ptr(),
        stdin: plan.stdin.as_raw_fd(),
        output: plan.output.as_raw_fd(),
        cgroup: -1,
        limits: &plan.limits,
        identity: plan.identity.as_ref(),
        oom_score: c"/proc/self/oom_score_adj",
        report: report.get(),
    };
    let memory = if plan.identity.is_some() { 0 } else { libc::CLONE_VM };
    let flags = libc::CLONE_VFORK | libc::CLONE_PIDFD | memory;
    let mut stack = Stack::new();
    let blocked = BlockedSignals::new();
    let born = plan
        .cgroup
        .as_ref()
        .and_then(|cgroup| clone_into(cgroup, &child, flags, &mut stack));
    let cloned = match born {
        Some(cloned) => Ok(cloned),
        None => {
            child.cgroup = plan.cgroup.as_ref().map_or(-1, |cgroup| cgroup.procs.as_raw_fd());
            clone(&child, flags, &mut stack)
        }
    };
    drop(blocked);
    let (pid, pidfd) = cloned.map_err(fork_failed)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match report.get().outcome() {
        None => Ok((pid, pidfd)),
        Some(failure) => {
            let ended = rustix::process::WaitIdOptions::EXITED;
            let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(borrow(&pidfd)), ended);
            Err(failure)
        }
    }
}

/// Starts a child that joins its cgroup, if it is to, by itself.
fn clone(child: &Child<'_>, flags: c_int, stack: &mut Stack) -> io::Result<(u32, RawFd)> {
    let mut pidfd: c_int = -1;
    // SAFETY: `stack` and all that `child` points to outlive the call, since CLONE_VFORK keeps this thread waiting until the
    // child has left them behind. Signals are blocked, so no handler of the agent runs in the child on shared memory;
    // `run_child` only makes async-signal-safe calls and never returns.
    let pid = unsafe {
        libc::clone(
            run_child,
            stack.top().cast(),
            flags | libc::SIGCHLD,
            child.as_argument(),
            &raw mut pidfd,
        )
    };
    if pid < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok((pid.unsigned_abs(), pidfd))
    }
}

/// Starts a child in its cgroup. `None` if that cannot be done: by this kernel (before 5.7), in this container, here at all.
/// Then the child has to join by itself, and if it may not, that tells why.
#[cfg(target_arch = "x86_64")]
fn clone_into(cgroup: &Cgroup, child: &Child<'_>, flags: c_int, stack: &mut Stack) -> Option<(u32, RawFd)> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: c_int = -1;
    // SAFETY: numbers only, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(flags.unsigned_abs()) | CLONE_INTO_CGROUP;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    args.stack = stack.bottom() as u64;
    args.stack_size = stack.top() as u64 - args.stack;
    args.cgroup = u64::from(cgroup.dir.as_raw_fd().unsigned_abs());
    let pid: i64;
    // SAFETY: as for `clone`. libc has no wrapper for clone3, so the way onto the child's stack is here: the parent goes on
    // after the call with all its registers but rax, rcx and r11; the child finds an aligned, empty stack, takes the two
    // values it needs from registers that a system call keeps, and never comes back.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => pid,
            in("rdi") &raw const args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") child.as_argument(),
            in("r13") run_child as extern "C" fn(*mut c_void) -> c_int,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    u32::try_from(pid).ok().map(|pid| (pid, pidfd))
}

/// The way onto the child's stack is written for x86-64 only.
#[cfg(not(target_arch = "x86_64"))]
fn clone_into(_: &Cgroup, _: &Child<'_>, _: c_int, _: &mut Stack) -> Option<(u32, RawFd)> {
    None
}

/// Where the child's one function runs.
struct Stack(Vec<u8>);

impl Stack {
    fn new() -> Self {
        Self(vec![0; STACK_BYTES])
    }

    fn bottom(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    /// It grows down from here; aligned as every platform wants it.
    fn top(&mut self) -> *mut u8 {
        let end = self.bottom().wrapping_add(STACK_BYTES);
        end.wrapping_sub(end as usize & 15)
    }
}

/// Lets the runtime wait for a descriptor.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it exists, and its number never changes.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// How a process ended that is not a child of ours: the wait status, if the kernel tells (6.15 and later, once reaped).
pub(crate) fn exit_status_of_stranger(pidfd: BorrowedFd<'_>) -> Option<i32> {
    // SAFETY: the struct is numbers only, for which zero is a value.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = libc::PIDFD_INFO_EXIT.into();
    // SAFETY: the request carries the size of the struct, and the kernel writes no more than that.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    (done == 0 && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0).then_some(info.exit_code)
}

fn borrow(fd: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd)
}

/// What the child sees.
struct Child<'a> {
    program: *const c_char,
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    dir: *const c_char,
    stdin: RawFd,
    output: RawFd,
    cgroup: RawFd,
    limits: &'a [(Limit, u64)],
    identity: Option<&'a Identity>,
    oom_score: &'a CStr,
    report: &'a Report,
}

impl Child<'_> {
    fn as_argument(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }
}

extern "C" fn run_child(child: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a `Child` that it keeps alive for as long as we run before `execve`.
    let child = unsafe { &*child.cast::<Child<'_>>() };
    // SAFETY: see `enter`.
    let failed = unsafe { enter(child) };
    child.report.fail(failed);
    // SAFETY: ends this process without running anything of the agent's.
    unsafe { libc::_exit(127) }
}

/// Becomes the service. Returns only on failure, with what failed.
///
/// # Safety
/// Runs between `clone` and `execve`, possibly on the agent's memory: system calls only, no allocation, no locks.
/// The calls that change the user are made raw, since libc's would also tell the threads of the agent.
unsafe fn enter(child: &Child<'_>) -> Step {
    // SAFETY: the caller's promise is ours.
    match unsafe { prepare(child) } {
        Err(step) => step,
        Ok(()) => {
            // SAFETY: all three were made from `CString`s that live in the caller's `Plan`, both lists end with a null.
            unsafe { libc::execve(child.program, child.args.as_ptr(), child.env.as_ptr()) };
            Step::Exec
        }
    }
}

/// All that comes before `execve`.
///
/// # Safety
/// As for [`enter`].
unsafe fn prepare(child: &Child<'_>) -> Result<(), Step> {
    let check = |result: i64, step| if result < 0 { Err(step) } else { Ok(()) };
    // SAFETY: plain system calls on values that live in `child` or in this frame.
    unsafe {
        check(libc::setsid().into(), Step::Session)?;
        // The kernel's struct, all zero: SIG_DFL, no flags, nothing blocked. libc would refuse the two signals of its own.
        let default = [0u64; 8];
        for signal in 1..=SIGNAL_MAX {
            // Fails for SIGKILL and SIGSTOP, which have no other disposition.
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<c_void>(),
                SIGNAL_SET_BYTES,
            );
        }
        for (from, to) in [(child.stdin, 0), (child.output, 1), (child.output, 2)] {
            check(libc::dup2(from, to).into(), Step::Stdio)?;
        }
        if child.cgroup >= 0 {
            check(libc::write(child.cgroup, c"0".as_ptr().cast(), 1) as i64, Step::Cgroup)?;
        }
        // The agent's descriptors are all close-on-exec; this is for those that it was itself started with.
        // It fails on kernels before 5.11 only.
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        // The agent may be protected and favoured; services are not. Not allowed without root: then there was no favour either.
        let oom_score = libc::open(child.oom_score.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if oom_score >= 0 {
            libc::write(oom_score, c"0".as_ptr().cast(), 1);
        }
        let ordinary: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary);
        libc::setpriority(libc::PRIO_PROCESS, 0, 0);
        libc::umask(0o022);
        for (index, (limit, value)) in child.limits.iter().enumerate() {
            let resource = match limit {
                Limit::OpenFiles => libc::RLIMIT_NOFILE,
                Limit::Processes => libc::RLIMIT_NPROC,
                Limit::Memory => libc::RLIMIT_AS,
                Limit::Core => libc::RLIMIT_CORE,
            };
            child.report.limit.store(index as i32, Relaxed);
            let both = libc::rlimit64 {
                rlim_cur: *value,
                rlim_max: *value,
            };
            check(libc::setrlimit64(resource, &raw const both).into(), Step::Limits)?;
        }
        if let Some(identity) = child.identity {
            let (uid, gid) = (identity.uid, identity.gid);
            let groups = &identity.groups;
            check(
                libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                Step::Identity,
            )?;
            check(libc::syscall(libc::SYS_setresgid, gid, gid, gid), Step::Identity)?;
            check(libc::syscall(libc::SYS_setresuid, uid, uid, uid), Step::Identity)?;
        }
        check(libc::chdir(child.dir).into(), Step::Dir)?;
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
    Ok(())
}

/// Where the child says what failed.
struct Report {
    /// 0 while nothing has.
    step: AtomicI32,
    limit: AtomicI32,
    errno: AtomicI32,
}

impl Report {
    fn fail(&self, step: Step) {
        // SAFETY: the address of this thread's errno.
        self.errno.store(unsafe { *libc::__errno_location() }, Relaxed);
        self.step.store(step as i32, Relaxed);
    }

    fn outcome(&self) -> Option<Failure> {
        let steps = [
            Step::Session,
            Step::Stdio,
            Step::Cgroup,
            Step::Limits,
            Step::Identity,
            Step::Dir,
            Step::Exec,
        ];
        let failed = self.step.load(Relaxed);
        let step = steps.into_iter().find(|step| *step as i32 == failed)?;
        Some(Failure {
            step,
            limit: self.limit.load(Relaxed).unsigned_abs() as usize,
            error: io::Error::from_raw_os_error(self.errno.load(Relaxed)),
        })
    }
}

/// A page that parent and child share even when they do not share their memory.
struct Shared(*mut Report);

impl Shared {
    const BYTES: usize = size_of::<Report>();

    fn new() -> rustix::io::Result<Self> {
        // SAFETY: a new mapping, where the kernel likes; zero is a value of every field of `Report`.
        let page = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                Self::BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )?
        };
        Ok(Self(page.cast()))
    }

    fn get(&self) -> &Report {
        // SAFETY: mapped until `drop`, page-aligned, zeroed; only atomics are accessed.
        unsafe { &*self.0 }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; no reference outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.0.cast(), Self::BYTES) };
    }
}

/// Keeps all signals from this thread until dropped.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: both sets are initialised by the calls that are given them.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set that `new` was given.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}
