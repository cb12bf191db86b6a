//! Gives the library the name programs link the driver by, so that `-l:libcuda.so.1` records `libcuda.so.1`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    // What cuGetProcAddress hands out is this library's own function, whatever a preloaded library exports by that name.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
