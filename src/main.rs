//! The `hallpass` program. Everything it does is in the library.

use std::process::ExitCode;

// A request makes some hundreds of small values, and the system's allocator took a tenth of a
// certificate's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hallpass::cli::run()
}
