//! Links libaishim.so so that its own references to the functions it exports stay within it: another preload that
//! defines one of them too must not get between a hook and its entry in the table.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libaishim.so");
    // Everything is resolved when the library is loaded; nothing on the launch path goes through a lazy stub.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
    // A library that interposes must stay where it is: its thread destructors and exit handler have to be there.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
