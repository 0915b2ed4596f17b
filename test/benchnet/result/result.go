// SPDX-License-Identifier: Apache-2.0

// Package result is what test/benchnet writes and test/benchplot reads: single
// measurements, and the medians and ratios made of them.
package result

import "slices"

// Metric is one thing that is measured.
type Metric struct {
	// Name tells it from others, Unit is that of its values.
	Name string `json:"name"`
	Unit string `json:"unit"`
	// LessIsBetter says so of latencies.
	LessIsBetter bool `json:"lessIsBetter,omitempty"`
}

// Sample is one measurement.
type Sample struct {
	// Repeat counts from 0. What is of one repeat was measured right after each other.
	Repeat int `json:"repeat"`
	// Services is how many there were.
	Services int `json:"services"`
	// From is where the client was, FromClient or FromNode.
	From string `json:"from"`
	// Path is what the packets went through.
	Path string `json:"path"`
	// Metric is the name of one, and Value in its unit.
	Metric string  `json:"metric"`
	Value  float64 `json:"value"`
}

// Where clients are.
const (
	FromClient = "client" // on another machine, or in a pod: the node forwards
	FromNode   = "node"   // a process of the node itself
)

// File is a whole run.
type File struct {
	// Date is when it began, RFC 3339. Kernel is a release, CPUs how many there were.
	Date   string `json:"date"`
	Kernel string `json:"kernel"`
	CPUs   int    `json:"cpus"`
	// Load is the machine's load average of a minute when it began, before any of this.
	Load float64 `json:"load"`
	// Version is that of the waggle that was measured.
	Version string `json:"version"`
	// Seconds is how long each measurement took, Repeats how many there were of each.
	Seconds int `json:"seconds"`
	Repeats int `json:"repeats"`
	// Metrics are described in the order of the table, and Rivals are the paths whose
	// best one all are compared with.
	Metrics []Metric `json:"metrics"`
	Rivals  []string `json:"rivals"`
	Samples []Sample `json:"samples"`
}

// Summary is of several values: their median and what they lie between.
type Summary struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Summarize returns the summary of values, and zeros of none. The median of an even
// number is the mean of the two in the middle.
func Summarize(values []float64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return Summary{Median: (v[(n-1)/2] + v[n/2]) / 2, Min: v[0], Max: v[n-1]}
}

// Row is what the table says of one path.
type Row struct {
	Services int    `json:"services"`
	From     string `json:"from"`
	Metric   Metric `json:"metric"`
	Path     string `json:"path"`
	// Value is of the measurements, in the metric's unit.
	Value Summary `json:"value"`
	// Ratio says how many times better than the best rival of the same repeat: more
	// than 1 is better, whether more or less of it is. Zeros if nothing is to compare with.
	Ratio Summary `json:"ratio"`
}

// key is all of a sample but its repeat and value.
type key struct {
	services           int
	from, metric, path string
}

// Rows returns a row for each path, of a number of services, a place and a metric:
// in the order of services, of places, of Metrics, and of the paths' first samples.
func (f *File) Rows() []Row {
	values := make(map[key]map[int]float64) // by repeat
	var services []int
	var paths []string
	for _, s := range f.Samples {
		k := key{s.Services, s.From, s.Metric, s.Path}
		if values[k] == nil {
			values[k] = make(map[int]float64)
		}
		values[k][s.Repeat] = s.Value
		if !slices.Contains(services, s.Services) {
			services = append(services, s.Services)
		}
		if !slices.Contains(paths, s.Path) {
			paths = append(paths, s.Path)
		}
	}
	slices.Sort(services)
	var rows []Row
	for _, n := range services {
		for _, from := range []string{FromClient, FromNode} {
			for _, m := range f.Metrics {
				for _, path := range paths {
					k := key{n, from, m.Name, path}
					if values[k] != nil {
						rows = append(rows, f.row(k, m, values))
					}
				}
			}
		}
	}
	return rows
}

func (f *File) row(k key, m Metric, values map[key]map[int]float64) Row {
	var all, ratios []float64
	for repeat, v := range values[k] {
		all = append(all, v)
		best, ok := f.best(k, m, values, repeat)
		if !ok || v == 0 || best == 0 {
			continue
		}
		if m.LessIsBetter {
			ratios = append(ratios, best/v)
		} else {
			ratios = append(ratios, v/best)
		}
	}
	return Row{Services: k.services, From: k.from, Metric: m, Path: k.path, Value: Summarize(all), Ratio: Summarize(ratios)}
}

// best is the best rival's value in a repeat.
func (f *File) best(k key, m Metric, values map[key]map[int]float64, repeat int) (best float64, ok bool) {
	for _, rival := range f.Rivals {
		k.path = rival
		v, measured := values[k][repeat]
		if !measured {
			continue
		}
		if !ok || m.LessIsBetter && v < best || !m.LessIsBetter && v > best {
			best, ok = v, true
		}
	}
	return best, ok
}
