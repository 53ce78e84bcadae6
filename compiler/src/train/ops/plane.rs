//! One image's values: NHWC with a border of zeros.

/// Rows, columns and channels of one image, with `border` pixels of zeros on each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::train) struct Plane {
    pub(in crate::train) height: usize,
    pub(in crate::train) width: usize,
    pub(in crate::train) channels: usize,
    pub(in crate::train) border: usize,
}

impl Plane {
    /// Elements from one row to the next.
    pub(in crate::train) fn pitch(&self) -> usize {
        (self.width + 2 * self.border) * self.channels
    }

    /// Elements of the whole image.
    pub(in crate::train) fn len(&self) -> usize {
        (self.height + 2 * self.border) * self.pitch()
    }

    /// Elements of a row without its border.
    pub(in crate::train) fn row(&self) -> usize {
        self.width * self.channels
    }

    /// Pixels without the border.
    pub(in crate::train) fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// The same without border.
    pub(in crate::train) fn dense(&self) -> Self {
        Self { border: 0, ..*self }
    }

    /// Where a pixel is.
    pub(in crate::train) fn at(&self, row: usize, column: usize) -> usize {
        self.at_padded(row + self.border, column + self.border)
    }

    /// Where a pixel is, counted from the border's corner.
    pub(in crate::train) fn at_padded(&self, row: usize, column: usize) -> usize {
        row * self.pitch() + column * self.channels
    }

    /// The elements of a row without its border.
    pub(in crate::train) fn range(&self, row: usize) -> std::ops::Range<usize> {
        let start = self.at(row, 0);
        start..start + self.row()
    }
}
