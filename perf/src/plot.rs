//! Curves that one can look at.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

/// What a quantity is at a size.
#[derive(Clone, Copy)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    /// The upper edge of its band.
    pub high: f64,
}

pub struct Curve {
    pub name: String,
    pub points: Vec<Point>,
}

impl Curve {
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), points: Vec::new() }
    }
}

const SIZE: (u32, u32) = (900, 520);
/// To be told apart by those, too, who see fewer colours (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 158, 115),
    RGBColor(80, 80, 80),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// Both axes logarithmic: what grows with the size is a slope, what does not is
/// level.
pub fn by_size(file: &Path, title: &str, x: &str, curves: &[Curve]) -> Result<()> {
    draw(file, title, x, curves).with_context(|| format!("draw {}", file.display()))
}

fn draw(file: &Path, title: &str, x: &str, curves: &[Curve]) -> Result<()> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let largest = points().map(|point| point.x).fold(1.0, f64::max);
    let low = points().map(|point| point.y).fold(f64::INFINITY, f64::min);
    let high = points().map(|point| point.high).fold(0.0, f64::max);
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((0.9..largest * 1.2).log_scale(), (low * 0.8..high * 1.2).log_scale())?;
    chart.configure_mesh().x_desc(x).y_desc("µs").light_line_style(WHITE).draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let upper = curve.points.iter().map(|point| (point.x, point.high));
        let lower = curve.points.iter().rev().map(|point| (point.x, point.y));
        let band = Polygon::new(upper.chain(lower).collect::<Vec<_>>(), colour.mix(0.12));
        chart.draw_series([band])?;
        let line = curve.points.iter().map(|point| (point.x, point.y));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)).point_size(3))?
            .label(&curve.name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(root.present()?)
}

#[cfg(test)]
mod tests {
    use causeway_testkit::scratch::Dir;

    use super::*;

    #[test]
    fn curves_are_drawn_and_named() {
        let (place, point) = (Dir::new(), |x, y| Point { x, y, high: y * 2.0 });
        let file = place.join("plot.svg");
        let mut level = Curve::new("level");
        level.points = vec![point(1.0, 30.0), point(1000.0, 31.0)];
        let mut steep = Curve::new("steep");
        steep.points = vec![point(1.0, 30.0), point(1000.0, 900.0)];
        by_size(&file, "Title", "services", &[level, steep]).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        for word in ["<svg", "Title", "level", "steep", "services"] {
            assert!(text.contains(word), "no {word}");
        }
    }
}
