//! A process under test, and what the operating system says of it.

use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command};
use std::time::Duration;

/// Columns of `/proc/stat`.
const IDLE: usize = 3;
const WAITING: usize = 4;

/// Killed at the end, however that comes.
pub(crate) struct Process(Child);

/// What a peak of memory tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peak {
    /// The peak under load.
    Load,
    /// The peak since the start: the key derivation's 128 MiB.
    Derivation,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        // SAFETY: prctl takes no memory of ours, and is a mere system call.
        unsafe {
            command.pre_exec(|| {
                // It ends with us also when we are killed.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let child = command.spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// What it says, if that was piped.
    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.0.stdout.take().expect("a pipe")
    }

    /// Stops it as an operator would; it must end well.
    pub(crate) fn stop(&mut self) {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        // SAFETY: our own child, not waited for yet.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let status = self.0.wait().expect("our own child");
        assert!(status.success(), "the server ended with {status}");
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|ended| ended.is_none())
    }

    /// What it has spent on all its threads.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(self.0.id())
    }

    /// What it holds in memory now.
    pub(crate) fn resident_kb(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that it has held since [`Self::forget_peak`].
    pub(crate) fn peak_kb(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// What it holds in memory now and is in no file.
    pub(crate) fn anonymous_kb(&self) -> u64 {
        self.status("RssAnon:")
    }

    /// Begins to look for the peak anew, where that is permitted (proc(5), `clear_refs`): for root
    /// alone, since the server keeps others off its memory.
    pub(crate) fn forget_peak(&self) -> Peak {
        match fs::write(self.proc("clear_refs"), "5") {
            Ok(()) => Peak::Load,
            Err(_) => Peak::Derivation,
        }
    }

    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("a server that runs");
        let mut words = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a line of proc(5)")
            .split_whitespace();
        let number = words.next().and_then(|word| word.parse().ok());
        number.expect("a number of kB")
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.0.id().to_string()).join(name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What a process has spent on all its threads, those that have ended included: the scheduler's
/// own account, user and system time together.
pub(crate) fn cpu(process: u32) -> Duration {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let process = i32::try_from(process).expect("a process id");
    // SAFETY: each writes one value of ours, which lives through the call.
    let done = unsafe {
        libc::clock_getcpuclockid(process, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    assert!(done, "process {process} has no clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What this thread has spent.
pub(crate) fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes one value of ours, which lives through the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0, "a thread has a clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What the children that have ended and were waited for have spent.
pub(crate) fn children_cpu() -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: writes one structure of ours, for which zeroes are good values, too.
    let usage = unsafe {
        assert_eq!(
            libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()),
            0
        );
        usage.assume_init()
    };
    [usage.ru_utime, usage.ru_stime]
        .map(|time| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000))
        .iter()
        .sum()
}

/// What the whole machine has spent: all that is neither idle nor waits for a disk (proc(5),
/// `stat`), the time that a hypervisor withheld included.
pub(crate) fn machine_cpu() -> Duration {
    // SAFETY: sysconf has no preconditions.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let stat = fs::read_to_string("/proc/stat").expect("the kernel's statistics");
    let all = stat.lines().next().expect("a line for all cores");
    let ticks: u64 = all
        .split_whitespace()
        .skip(1)
        .take(8)
        .enumerate()
        .filter(|(place, _)| ![IDLE, WAITING].contains(place))
        .map(|(_, ticks)| ticks.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64)
}
