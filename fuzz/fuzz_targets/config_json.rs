//! config.json: what is understood has sane sizes and survives being written and read again.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use truing_model::families::{ConfigFile, config_from_spec, spec_from_config};

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("config.json");
    let Ok(spec) = ConfigFile::parse(bytes, path).and_then(|config| spec_from_config(&config)) else { return };
    assert!(spec.n_parameters() > 0 && spec.sliding_windows.len() == spec.n_layers);
    let _ = spec.rotary_inverse_frequencies();
    if let Ok(fields) = config_from_spec(&spec) {
        let again = spec_from_config(&ConfigFile::from_fields(fields, path)).expect("own words are understood");
        assert_eq!(again, spec);
    }
});
