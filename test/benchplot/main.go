// SPDX-License-Identifier: Apache-2.0

// Command benchplot draws what the benchmarks measured: it reads docs/plots/*.json, which
// `make bench BENCH=-json` and `make bench-net BENCH_NET=-json` print, writes the pictures
// beside them and the tables of docs/benchmarks.md. No figure passes through a hand.
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

// tableEnds is what follows a table in docs/benchmarks.md; tableBegins stands before it.
const tableEnds = "<!-- end of what make plots made -->\n"

func tableBegins(of string) string {
	return "<!-- made by make plots, out of docs/plots/" + of + " -->\n"
}

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
	tables := packetTables(packets)
	tables["network.json"] = networkTable(&network)
	for of, table := range tables {
		if page, err = withTable(page, of, table); err != nil {
			return nil, err
		}
	}
	files["benchmarks.md"] = page
	return files, nil
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

// withTable puts the table of something between its marks.
func withTable(page []byte, of, table string) ([]byte, error) {
	begins := tableBegins(of)
	before, rest, found := bytes.Cut(page, []byte(begins))
	_, after, ends := bytes.Cut(rest, []byte(tableEnds))
	if !found || !ends {
		return nil, fmt.Errorf("benchmarks.md: no place for the table: it goes between %q and %q", begins, tableEnds)
	}
	return bytes.Join([][]byte{before, []byte(begins + "\n" + table + "\n" + tableEnds), after}, nil), nil
}
