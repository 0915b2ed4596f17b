// SPDX-License-Identifier: Apache-2.0

// Command benchplot draws what the benchmarks measured: it reads docs/plots/*.json, which
// `make bench BENCH=-json` and `make bench-net BENCH_NET=-json` print, writes the pictures
// beside them and the table of docs/benchmarks.md. No figure passes through a hand.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/waggle-lb/waggle/test/benchnet/result"
)

// What surrounds the table in docs/benchmarks.md.
const (
	tableBegins = "<!-- made by make plots, out of docs/plots/network.json -->\n"
	tableEnds   = "<!-- end of what make plots made -->\n"
)

func main() {
	docs := flag.String("docs", "docs", "the folder with benchmarks.md and plots/")
	flag.Parse()
	files, err := made(*docs)
	for name, text := range files {
		if err == nil {
			err = os.WriteFile(filepath.Join(*docs, name), text, 0o644)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchplot:", err)
		os.Exit(1)
	}
}

// made returns the files that there are to be, by their names below docs.
func made(docs string) (map[string][]byte, error) {
	var network result.File
	var packets []packetRow
	err := errors.Join(read(docs, "network.json", &network), read(docs, "packets.json", &packets))
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte)
	for _, charts := range []map[string]*chart{networkCharts(&network), packetCharts(packets)} {
		for name, c := range charts {
			var b bytes.Buffer
			if err := c.writeTo(&b); err != nil {
				return nil, err
			}
			files["plots/"+name+".svg"] = b.Bytes()
		}
	}
	page, err := os.ReadFile(filepath.Join(docs, "benchmarks.md"))
	if err != nil {
		return nil, err
	}
	files["benchmarks.md"], err = withTable(page, networkTable(&network))
	return files, err
}

func read(docs, name string, into any) error {
	path := filepath.Join(docs, "plots", name)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read %s: %w: it is what the benchmark prints with -json, and no more", path, err)
	}
	return nil
}

// withTable puts the table between its marks.
func withTable(page []byte, table string) ([]byte, error) {
	before, rest, found := bytes.Cut(page, []byte(tableBegins))
	_, after, ends := bytes.Cut(rest, []byte(tableEnds))
	if !found || !ends {
		return nil, fmt.Errorf("benchmarks.md: no place for the table: it goes between %q and %q", tableBegins, tableEnds)
	}
	return bytes.Join([][]byte{before, []byte(tableBegins + "\n" + table + "\n" + tableEnds), after}, nil), nil
}
