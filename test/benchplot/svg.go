// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// chart is a picture of bars, which begin at zero.
type chart struct {
	title  string
	unit   string // of the axis
	series []string
	groups []group
	mark   float64 // where a line is across all bars; 0: nowhere
}

// group is bars that are to be compared.
type group struct {
	label string
	bars  []bar
}

// bar is a value, and what its measurements lie between.
type bar struct {
	series          string
	value, min, max float64
}

// Sizes in pixels.
const (
	width     = 860
	margin    = 8
	labelRoom = 285 // of the groups, at the left
	plotRoom  = 490
	barHeight = 14
	groupGap  = 12
	lineRoom  = 20 // of a line of text
	fontSize  = 12
	fontWidth = 7 // about, of a letter
	legendGap = 28
)

// colours can be told apart by those who see few (Okabe and Ito, "Color Universal
// Design"), on white and on black; the yellow, the black and one blue of theirs are left
// out, which one of these would hide.
var colours = []string{"#8c8c8c", "#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7"}

// style takes the colour of text and lines from what the reader's pages look like.
const style = `text{font:12px sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:bold}.small{font-size:11px}.line{stroke:#c8ccd1}.ink{stroke:#1f2328}` +
	`@media(prefers-color-scheme:dark){text{fill:#e6edf3}.line{stroke:#3d444d}.ink{stroke:#e6edf3}}`

// drawing writes elements; an error of the writer shows at the end.
type drawing struct {
	strings.Builder
	scale float64 // pixels for one of the unit
	top   float64 // end of the axis
}

func escape(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		panic(err) // a Builder takes everything
	}
	return b.String()
}

// text writes words. anchor is start, middle or end.
func (d *drawing) text(x, y float64, anchor, class, words string) {
	fmt.Fprintf(d, `<text x="%.1f" y="%.1f" text-anchor="%s" class="%s">%s</text>`+"\n", x, y, anchor, class, escape(words))
}

func (d *drawing) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(d, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`+"\n", x1, y1, x2, y2, class)
}

// x is where a value is.
func (d *drawing) x(v float64) float64 { return labelRoom + v*d.scale }

// writeTo writes the chart as SVG.
func (c *chart) writeTo(w io.Writer) error {
	step, top := axis(c.most())
	d := &drawing{scale: plotRoom / top, top: top}
	bars := 0
	for _, g := range c.groups {
		bars += len(g.bars)
	}
	legend := c.legend()
	head := lineRoom*(1.5+float64(len(legend))) + groupGap
	bottom := head + float64(bars*barHeight+len(c.groups)*groupGap)
	height := bottom + 2.5*lineRoom
	d.text(margin, lineRoom, "start", "title", c.title)
	for i, line := range legend {
		c.drawLegend(d, line, lineRoom*float64(i+2))
	}
	for i := 0; float64(i)*step <= top+step/2; i++ {
		v := float64(i) * step
		d.line(d.x(v), head-groupGap/2, d.x(v), bottom, "line")
		d.text(d.x(v), bottom+lineRoom*0.8, "middle", "small", number(v))
	}
	d.text(labelRoom+plotRoom/2, bottom+2*lineRoom, "middle", "", c.unit)
	y := head
	for _, g := range c.groups {
		y = c.drawGroup(d, g, y) + groupGap
	}
	if c.mark > 0 {
		d.line(d.x(c.mark), head-groupGap/2, d.x(c.mark), bottom, "ink")
	}
	d.line(labelRoom, head-groupGap/2, labelRoom, bottom, "ink")
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%.0f" viewBox="0 0 %d %.0f" role="img">`+"\n<title>%s</title>\n<style>%s</style>\n%s</svg>\n",
		width, height, width, height, escape(c.title), style, d.String())
	return err
}

// most is the largest that is drawn.
func (c *chart) most() float64 {
	most := c.mark
	for _, g := range c.groups {
		for _, b := range g.bars {
			most = max(most, b.value, b.max)
		}
	}
	return most
}

// legend says in what lines the series that are drawn are named; none if there is one.
func (c *chart) legend() (lines [][]string) {
	if len(c.series) < 2 {
		return nil
	}
	drawn := make(map[string]bool)
	for _, g := range c.groups {
		for _, b := range g.bars {
			drawn[b.series] = true
		}
	}
	used := plotRoom * 2.0
	for _, s := range c.series {
		if !drawn[s] {
			continue
		}
		need := float64(len(s)*fontWidth + legendGap)
		if used += need; used > plotRoom {
			lines, used = append(lines, nil), need
		}
		lines[len(lines)-1] = append(lines[len(lines)-1], s)
	}
	return lines
}

func (c *chart) drawLegend(d *drawing, names []string, y float64) {
	x := float64(labelRoom)
	for _, s := range names {
		fmt.Fprintf(d, `<rect x="%.1f" y="%.1f" width="10" height="10" fill="%s"/>`+"\n", x, y-9, c.colour(s))
		d.text(x+14, y, "start", "", s)
		x += float64(len(s)*fontWidth + legendGap)
	}
}

func (c *chart) colour(series string) string {
	i := slices.Index(c.series, series)
	if i < 0 {
		i = 1 // there are no series: not the grey of what the others are compared with
	}
	return colours[i%len(colours)]
}

// drawGroup draws the bars from y on and returns where they end.
func (c *chart) drawGroup(d *drawing, g group, y float64) float64 {
	d.text(labelRoom-margin, y+float64(len(g.bars)*barHeight)/2+fontSize/3, "end", "", g.label)
	for _, b := range g.bars {
		middle := y + barHeight/2
		fmt.Fprintf(d, `<rect x="%d" y="%.1f" width="%.1f" height="%d" fill="%s"/>`+"\n", labelRoom, y+1, b.value*d.scale, barHeight-2, c.colour(b.series))
		end := d.x(b.value)
		if b.max > b.min {
			d.line(d.x(b.min), middle, d.x(b.max), middle, "ink")
			for _, v := range []float64{b.min, b.max} {
				d.line(d.x(v), middle-3, d.x(v), middle+3, "ink")
			}
			end = max(end, d.x(b.max))
		}
		d.text(end+5, middle+4, "start", "small", number(b.value))
		y += barHeight
	}
	return y
}

// axis returns the distance of the marks of an axis from zero on, of which there are 4 to
// 10, and its end, at which there is one.
func axis(most float64) (step, end float64) {
	if most <= 0 {
		return 1, 1
	}
	step = math.Pow(10, math.Floor(math.Log10(most)))
	switch {
	case most/step < 2:
		step /= 5
	case most/step < 4:
		step /= 2
	}
	return step, math.Ceil(most/step-1e-9) * step
}

// number is a figure with three digits at most, and k or M.
func number(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.3gM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.3gk", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
