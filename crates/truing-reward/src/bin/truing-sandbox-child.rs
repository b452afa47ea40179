//! The sandbox's child on its own, for the tests of this crate. `truing` has the same as a hidden sub-command.

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let status = match arguments.get(1..) {
        Some([command, argument]) if command == truing_reward::sandbox::CHILD_COMMAND => {
            truing_reward::sandbox::child_main(argument)
        }
        _ => 64,
    };
    std::process::exit(status);
}
