//! Stands in for the reader of Parquet where the feature `parquet` is left out.

use std::fs::File;
use std::path::Path;

use super::RawRows;
use crate::DataError;

pub(super) fn rows(path: &Path, _file: File) -> Result<RawRows, DataError> {
    Err(DataError::WithoutParquet { path: path.to_path_buf() })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_parquet_file_is_an_error_that_names_the_feature() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, b"PAR1").unwrap();
        let error = crate::readers::open(file.path()).err().unwrap().to_string();
        assert!(error.ends_with("built without the feature `parquet` of truing-data"), "{error}");
    }
}
