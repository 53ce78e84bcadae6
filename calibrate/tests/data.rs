//! Every data format, read through the public interface, with hostile files among them.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use image::{GrayImage, ImageFormat, Rgb, RgbImage};
use ride_calibrate::data::{DataOptions, DataSet, Format, Split};
use ride_calibrate::preprocess::{InputSize, Preprocess};
use tempfile::TempDir;

fn options(height: usize, width: usize, channels: usize) -> DataOptions {
    let input = InputSize { height, width, channels };
    let (mean, std) = (vec![0.5; channels], vec![0.25; channels]);
    DataOptions::new(Preprocess { input, mean, std, resize_short: None })
}

fn cifar() -> DataOptions {
    options(32, 32, 3)
}

/// The whole error of a set that must not open.
fn refusal(path: &Path, options: &DataOptions) -> String {
    match DataSet::open(path, options) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => format!("{error:#}"),
    }
}

fn assert_refused(path: &Path, options: &DataOptions, parts: &[&str]) {
    let error = refusal(path, options);
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// CIFAR records; plane `c` of record `r` holds the bytes `r + 60 c + pixel % 50`.
fn cifar_file(labels: &[&[u8]]) -> Vec<u8> {
    let plane = |r: usize, c: usize| (0..1024).map(move |p| (r + 60 * c + p % 50) as u8);
    let record = |(r, l): (usize, &&[u8])| l.iter().copied().chain((0..3).flat_map(|c| plane(r, c))).collect();
    labels.iter().enumerate().flat_map(|item| -> Vec<u8> { record(item) }).collect()
}

#[test]
fn cifar_100_records_become_interleaved_pixels() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "some.bin", &cifar_file(&[&[4, 9], &[19, 99], &[0, 9]]));
    let set = DataSet::open(&path, &cifar()).unwrap();
    assert_eq!((set.len(), set.format()), (3, Format::Cifar100Bin));
    assert_eq!(set.labels(), [9, 99, 9]);
    assert_eq!(set.class_names(), None);
    let pixels = set.pixels(2).unwrap();
    assert_eq!(pixels.len(), 3072);
    assert_eq!(pixels[..6], [2, 62, 122, 3, 63, 123]);
    let counts = set.class_counts(100).unwrap();
    assert_eq!((counts.len(), counts[9], counts[99], counts[0]), (100, 2, 1, 0));
    assert!(set.pixels(3).is_err());
}

#[test]
fn labels_beyond_the_model_are_a_disagreement() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "some.bin", &cifar_file(&[&[4, 9], &[19, 99]]));
    let set = DataSet::open(&path, &cifar()).unwrap();
    set.check_classes(100).unwrap();
    let error = set.check_classes(10).unwrap_err().to_string();
    for part in ["data set and the model disagree", "record 1", "label 99", "10 classes"] {
        assert!(error.contains(part), "{error}");
    }
    let given = DataOptions { class_counts: Some(vec![5; 100]), ..cifar() };
    let set = DataSet::open(&path, &given).unwrap();
    assert_eq!(set.class_counts(100).unwrap(), [5; 100]);
    assert!(set.class_counts(10).unwrap_err().to_string().contains("100 numbers"));
}

#[test]
fn cifar_10_is_told_by_its_record() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "data_batch_1.bin", &cifar_file(&[&[3], &[9]]));
    let set = DataSet::open(&path, &cifar()).unwrap();
    assert_eq!((set.format(), set.labels()), (Format::Cifar10Bin, &[3, 9][..]));
    assert_eq!(set.pixels(1).unwrap()[..3], [1, 61, 121]);
}

#[test]
fn a_folder_of_cifar_files_has_two_halves_and_names() {
    let folder = TempDir::new().unwrap();
    write(&folder, "train.bin", &cifar_file(&[&[0, 1], &[0, 2]]));
    write(&folder, "test.bin", &cifar_file(&[&[0, 3]]));
    let names: Vec<String> = (0..100).map(|i| format!("class {i}")).collect();
    write(&folder, "fine_label_names.txt", names.join("\n").as_bytes());
    let test = DataSet::open(folder.path(), &cifar()).unwrap();
    assert_eq!(test.labels(), [3]);
    assert_eq!(test.class_names().unwrap()[99], "class 99");
    let train = DataSet::open(folder.path(), &DataOptions { split: Split::Train, ..cifar() }).unwrap();
    assert_eq!(train.labels(), [1, 2]);
    fs::remove_file(folder.path().join("train.bin")).unwrap();
    assert_refused(folder.path(), &DataOptions { split: Split::Train, ..cifar() }, &["train.bin"]);
}

#[test]
fn damaged_cifar_files_are_refused() {
    let folder = TempDir::new().unwrap();
    let whole = cifar_file(&[&[4, 9], &[19, 99]]);
    for length in [1, 3071, 3073, 3075, whole.len() - 1] {
        let path = write(&folder, "cut.bin", &whole[..length]);
        assert_refused(&path, &DataOptions { format: Some(Format::Cifar100Bin), ..cifar() }, &["cut.bin", "multiple"]);
    }
    assert_refused(&write(&folder, "cut.bin", &whole[..5000]), &cifar(), &["cut.bin", "3074 bytes"]);
    assert_refused(&write(&folder, "empty.bin", &[]), &cifar(), &["empty.bin", "empty"]);
    let wrong = cifar_file(&[&[4, 9], &[4, 100]]);
    assert_refused(&write(&folder, "label.bin", &wrong), &cifar(), &["record 1", "label 100"]);
    assert_refused(&folder.path().join("absent.bin"), &cifar(), &["absent.bin"]);
    let path = write(&folder, "good.bin", &whole);
    assert_refused(&path, &options(64, 64, 3), &["good.bin", "32 x 32", "64 x 64", "--resize"]);
    assert_refused(&path, &options(32, 32, 1), &["3 channels"]);
}

fn png(width: u32, height: u32, shade: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(width, height, Rgb([shade, 0, 255])).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn jpeg(width: u32, height: u32, shade: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    GrayImage::from_pixel(width, height, image::Luma([shade])).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

#[test]
fn class_folders_are_numbered_in_sorted_order() {
    let folder = TempDir::new().unwrap();
    write(&folder, "zebra/2.png", &png(8, 6, 30));
    write(&folder, "zebra/1.JPEG", &jpeg(8, 6, 99));
    write(&folder, "ant/only.PNG", &png(8, 6, 10));
    write(&folder, "ant/notes.txt", b"not an image");
    write(&folder, ".hidden/x.png", &png(8, 6, 1));
    write(&folder, "README.md", b"beside the classes");
    fs::create_dir(folder.path().join("bee")).unwrap();
    let set = DataSet::open(folder.path(), &options(6, 8, 3)).unwrap();
    assert_eq!(set.format(), Format::Folder);
    assert_eq!(set.class_names().unwrap(), ["ant", "bee", "zebra"]);
    assert_eq!(set.labels(), [0, 2, 2]);
    assert_eq!(set.pixels(0).unwrap()[..3], [10, 0, 255]);
    assert!(set.pixels(1).unwrap().iter().all(|&p| p.abs_diff(99) <= 1));
    assert_eq!(set.pixels(2).unwrap()[..3], [30, 0, 255]);
    assert!(set.record_name(2).ends_with("2.png"));
    assert_eq!(set.class_counts(3).unwrap(), [1, 0, 2]);
    let error = set.check_classes(10).unwrap_err().to_string();
    assert!(error.contains("3 class folders") && error.contains("10 classes"), "{error}");
}

#[test]
fn unsuitable_folders_are_refused_with_a_hint() {
    let empty = TempDir::new().unwrap();
    assert_refused(empty.path(), &cifar(), &["cannot tell", "--data-format", "cifar100-bin"]);
    let forced = DataOptions { format: Some(Format::Folder), ..cifar() };
    assert_refused(empty.path(), &forced, &["no class folders"]);
    fs::create_dir(empty.path().join("ant")).unwrap();
    assert_refused(empty.path(), &cifar(), &["no PNG or JPEG files"]);
    let nested = TempDir::new().unwrap();
    write(&nested, "train/ant/1.png", &png(32, 32, 1));
    assert_refused(nested.path(), &cifar(), &["did you mean", "train"]);
    assert_refused(&write(&nested, "x.gif", b"GIF89a"), &cifar(), &["cannot tell", "x.gif"]);
}

#[test]
fn unreadable_images_are_named() {
    let folder = TempDir::new().unwrap();
    let whole = png(32, 32, 9);
    write(&folder, "ant/1.png", &whole);
    write(&folder, "ant/2.png", &whole[..40]);
    write(&folder, "ant/3.png", &png(31, 32, 9));
    let set = DataSet::open(folder.path(), &cifar()).unwrap();
    assert!(set.pixels(0).is_ok());
    for (index, part) in [(1, "2.png"), (2, "3.png")] {
        let error = format!("{:#}", set.pixels(index).unwrap_err());
        assert!(error.contains(part), "{error}");
    }
    let error = format!("{:#}", set.pixels(2).unwrap_err());
    assert!(error.contains("32 x 31") && error.contains("--resize"), "{error}");
}

#[test]
fn a_set_is_read_by_several_threads() {
    let folder = TempDir::new().unwrap();
    for i in 0..12 {
        write(&folder, &format!("ant/{i:02}.png"), &png(40, 40, i));
    }
    let mut options = cifar();
    options.preprocess.resize_short = Some(36);
    let set = DataSet::open(folder.path(), &options).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..12).for_each(|i| assert_eq!(set.pixels(i).unwrap()[..3], [i as u8, 0, 255])));
        }
    });
}

#[test]
fn list_files_name_images_and_labels() {
    let folder = TempDir::new().unwrap();
    write(&folder, "images/a b.png", &png(32, 32, 5));
    write(&folder, "images/c.png", &png(32, 32, 6));
    let list = write(&folder, "test.txt", b"images/a b.png 3\r\n\nimages/c.png\t0\n");
    let set = DataSet::open(&list, &cifar()).unwrap();
    assert_eq!((set.format(), set.labels()), (Format::List, &[3, 0][..]));
    assert_eq!(set.pixels(0).unwrap()[0], 5);
    let elsewhere = write(&folder, "lists/ImageNet_LT_test.lst", b"images/c.png 7\n");
    assert_refused(&elsewhere, &cifar(), &["--data-root", "c.png"]);
    let rooted = DataOptions { root: Some(folder.path().to_path_buf()), ..cifar() };
    assert_eq!(DataSet::open(&elsewhere, &rooted).unwrap().labels(), [7]);
}

#[test]
fn damaged_lists_name_the_line() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.png", &png(32, 32, 5));
    for (text, line) in [("a.png 1\na.png -1\n", "line 2"), ("a.png\n", "line 1"), ("\n 4\n", "line 2")] {
        assert_refused(&write(&folder, "bad.txt", text.as_bytes()), &cifar(), &[line, "bad.txt"]);
    }
    assert_refused(&write(&folder, "blank.txt", b"\n\n"), &cifar(), &["no images"]);
    assert_refused(&write(&folder, "zero.txt", b""), &cifar(), &["empty"]);
    assert_refused(&write(&folder, "latin.txt", b"a\xE9.png 1\n"), &cifar(), &["latin.txt"]);
}

/// A `.npy` file.
fn npy(descr: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}\n");
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), elements].concat()
}

fn npz(deflate: bool, members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let method = if deflate { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Two images of 2 x 2 RGB.
fn images() -> Vec<u8> {
    npy("|u1", "2, 2, 2, 3", &(0..24).collect::<Vec<u8>>())
}

#[test]
fn npz_labels_of_every_integer_type() {
    let folder = TempDir::new().unwrap();
    let cases: [(&str, Vec<u8>); 10] = [
        ("|u1", vec![7, 200]),
        ("|i1", vec![7, 100]),
        ("<u2", [7u16, 300].map(u16::to_le_bytes).concat()),
        (">u2", [7u16, 300].map(u16::to_be_bytes).concat()),
        ("<i2", [7i16, 300].map(i16::to_le_bytes).concat()),
        ("<i4", [7i32, 70_000].map(i32::to_le_bytes).concat()),
        (">i4", [7i32, 70_000].map(i32::to_be_bytes).concat()),
        ("<u8", [7u64, 70_000].map(u64::to_le_bytes).concat()),
        ("<i8", [7i64, 70_000].map(i64::to_le_bytes).concat()),
        (">i8", [7i64, 70_000].map(i64::to_be_bytes).concat()),
    ];
    for (i, (descr, bytes)) in cases.into_iter().enumerate() {
        let archive = npz(i % 2 == 0, &[("x.npy", images()), ("y.npy", npy(descr, "2,", &bytes))]);
        let set = DataSet::open(&write(&folder, "set.npz", &archive), &options(2, 2, 3)).unwrap();
        let second = match descr.as_bytes()[2] {
            b'1' if descr == "|u1" => 200,
            b'1' => 100,
            b'2' => 300,
            _ => 70_000,
        };
        assert_eq!((set.format(), set.labels()), (Format::Npz, &[7, second][..]), "{descr}");
        assert_eq!(set.pixels(1).unwrap()[..], (12..24).collect::<Vec<u8>>());
    }
}

#[test]
fn npz_grey_images_without_a_channel_dimension() {
    let folder = TempDir::new().unwrap();
    let x = npy("|u1", "2, 1, 3", &[1, 2, 3, 4, 5, 6]);
    let archive = npz(true, &[("x.npy", x), ("y.npy", npy("<i4", "2, 1", &[0, 0, 0, 0, 1, 0, 0, 0]))]);
    let path = write(&folder, "grey.npz", &archive);
    assert_eq!(DataSet::open(&path, &options(1, 3, 1)).unwrap().pixels(1).unwrap()[..], [4, 5, 6]);
    let rgb = DataSet::open(&path, &options(1, 3, 3)).unwrap();
    assert_eq!(rgb.pixels(0).unwrap()[..], [1, 1, 1, 2, 2, 2, 3, 3, 3]);
}

#[test]
fn unsuitable_npz_archives_are_refused() {
    let folder = TempDir::new().unwrap();
    let y = || npy("|u1", "2,", &[0, 1]);
    type Members<'a> = &'a [(&'a str, Vec<u8>)];
    let cases: [(Members<'_>, &[&str]); 15] = [
        (&[("y.npy", y())], &["x.npy", "np.savez"]),
        (&[("x.npy", images())], &["y.npy", "x.npy"]),
        (&[("x.npy", npy("<f4", "2, 2, 2, 3", &[0; 96])), ("y.npy", y())], &["float", "<f4", "astype(np.uint8)"]),
        (&[("x.npy", npy("<i8", "1, 1, 1, 3", &[0; 24])), ("y.npy", y())], &["<i8", "uint8"]),
        (&[("x.npy", npy("|u1", "2, 3, 2, 2", &[0; 24])), ("y.npy", y())], &["transpose(0, 2, 3, 1)"]),
        (&[("x.npy", npy("|u1", "24,", &[0; 24])), ("y.npy", y())], &["shape [24]"]),
        (&[("x.npy", npy("|u1", "0, 2, 2, 3", &[])), ("y.npy", npy("|u1", "0,", &[]))], &["no images"]),
        (&[("x.npy", npy("|u1", "2, 0, 2, 3", &[])), ("y.npy", y())], &["no images"]),
        (&[("x.npy", images()), ("y.npy", npy("|u1", "3,", &[0, 1, 2]))], &["2 images", "3 labels"]),
        (&[("x.npy", images()), ("y.npy", npy("<f4", "2,", &[0; 8]))], &["labels", "integers"]),
        (&[("x.npy", images()), ("y.npy", npy("|u1", "1, 2", &[0, 1]))], &["labels", "[1, 2]"]),
        (&[("x.npy", images()), ("y.npy", npy("|i1", "2,", &[0, 255]))], &["label -1", "image 1"]),
        (&[("x.npy", npy("|u1", "3, 2, 2, 3", &[0; 24])), ("y.npy", y())], &["cut off", "36 bytes"]),
        (&[("x.npy", npy("|u1", "1, 2, 2, 3", &[0; 24])), ("y.npy", y())], &["more bytes"]),
        (&[("x.npy", b"not an array".to_vec()), ("y.npy", y())], &["not a NumPy array"]),
    ];
    for (members, parts) in cases {
        let path = write(&folder, "bad.npz", &npz(true, members));
        assert_refused(&path, &options(2, 2, 3), parts);
        assert_refused(&path, &options(2, 2, 3), &["bad.npz"]);
    }
}

#[test]
fn npz_bombs_are_refused_before_memory_is_taken() {
    let folder = TempDir::new().unwrap();
    for shape in ["4000000000, 32, 32, 3", "18446744073709551615, 18446744073709551615, 2, 3", "70000, 32, 32, 3"] {
        let archive = npz(true, &[("x.npy", npy("|u1", shape, &[0; 5000])), ("y.npy", npy("|u1", "1,", &[0]))]);
        assert_refused(&write(&folder, "bomb.npz", &archive), &cifar(), &["bomb.npz", "reasonably"]);
    }
}

#[test]
fn damaged_npz_archives_never_panic() {
    let folder = TempDir::new().unwrap();
    let archive = npz(true, &[("x.npy", images()), ("y.npy", npy("|u1", "2,", &[0, 1]))]);
    for length in 0..archive.len() {
        let path = write(&folder, "cut.npz", &archive[..length]);
        assert!(DataSet::open(&path, &options(2, 2, 3)).is_err(), "{length} bytes");
    }
    let forced = DataOptions { format: Some(Format::Npz), ..options(2, 2, 3) };
    for position in 0..archive.len() {
        let mut bytes = archive.clone();
        bytes[position] ^= 0x55;
        // A flipped bit may sit in a field that nobody reads; what must not happen is a panic or other content.
        if let Ok(set) = DataSet::open(&write(&folder, "flip.npz", &bytes), &forced) {
            assert_eq!(set.labels(), [0, 1], "byte {position}");
            assert_eq!(set.pixels(1).unwrap()[..], (12..24).collect::<Vec<u8>>(), "byte {position}");
        }
    }
}

#[test]
fn formats_have_names() {
    for (format, name) in Format::ALL {
        assert_eq!(name.parse::<Format>().unwrap(), format);
        assert_eq!(format.to_string(), name);
    }
    let error = "cifar".parse::<Format>().unwrap_err().to_string();
    assert!(error.contains("cifar100-python") && error.contains("--data-format"), "{error}");
}

#[test]
fn the_real_validation_set() {
    let shared = std::env::var_os("RIDE_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")));
    let path = shared.join("cifar100-lt/val.bin");
    if !path.is_file() {
        println!("skipped: there is no cifar100-lt/val.bin; RIDE_SHARED names the folder that holds it");
        return;
    }
    let set = DataSet::open(&path, &cifar()).unwrap();
    assert_eq!((set.len(), set.format()), (5000, Format::Cifar100Bin));
    assert_eq!(set.class_counts(100).unwrap(), [50; 100]);
    assert_eq!(set.class_names().map(<[String]>::len), Some(100));
    let raw = fs::read(&path).unwrap();
    let pixels = set.pixels(4999).unwrap();
    let record = &raw[4999 * 3074..];
    assert_eq!(u32::from(record[1]), set.label(4999));
    for (i, pixel) in pixels.chunks(3).enumerate() {
        assert_eq!(pixel, [record[2 + i], record[2 + 1024 + i], record[2 + 2048 + i]]);
    }
}
