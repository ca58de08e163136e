/// Keeps this process's memory out of core dumps, debuggers and, where allowed, swap.
///
/// Dumps are switched off for good (`PR_SET_DUMPABLE` also keeps other processes of the same user
/// from attaching). All memory is locked only when there is no limit on it: with a limit, a later
/// allocation would fail instead of being swapped, so then only the keys' own pages are locked.
/// Returns whether all of it is.
pub fn protect_memory() -> bool {
    // SAFETY: prctl, setrlimit, getrlimit and mlockall take no memory of ours but the two structs,
    // which live through the calls.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        let mut locked = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut locked);
        (libc::geteuid() == 0 || locked.rlim_cur == libc::RLIM_INFINITY)
            && libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) == 0
    }
}
