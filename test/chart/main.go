// SPDX-License-Identifier: Apache-2.0

// Command queries reads files with PromQL, the rules of Prometheus (YAML) and the
// dashboards of Grafana (JSON) that its arguments name, and prints a line for each
// metric of each expression: file, whose expression it is, the expression on one
// line, the metric, and the labels that it is selected by or grouped by, separated
// by tabs. What Prometheus would not take is an error.
package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	for _, file := range os.Args[1:] {
		if err := print(file); err != nil {
			fmt.Fprintf(os.Stderr, "queries: %s: %v\n", file, err)
			os.Exit(1)
		}
	}
}

// query is an expression and whose it is.
type query struct{ of, expr string }

func print(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	read := rules
	if strings.HasSuffix(file, ".json") {
		read = dashboard
	}
	queries, err := read(data)
	if err != nil {
		return err
	}
	for _, q := range queries {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(q.expr)
		if err != nil {
			return fmt.Errorf("%s: %w", q.of, err)
		}
		for _, m := range metricsOf(expr) {
			fmt.Println(strings.Join([]string{file, q.of, strings.Join(strings.Fields(q.expr), " "), m}, "\t"))
		}
	}
	return nil
}

// metricsOf returns "metric label,label" of each selector; labels that the whole
// groups by are added to all of them, as one of them has to have those.
func metricsOf(expr parser.Expr) (out []string) {
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		v, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		var names []string
		for _, m := range v.LabelMatchers {
			if m.Name != labels.MetricName {
				names = append(names, m.Name)
			}
		}
		for _, above := range path {
			if a, ok := above.(*parser.AggregateExpr); ok && !a.Without {
				names = append(names, a.Grouping...)
			}
		}
		slices.Sort(names)
		out = append(out, v.Name+"\t"+strings.Join(slices.Compact(names), ","))
		return nil
	})
	return out
}

func rules(data []byte) (out []query, err error) {
	groups, errs := rulefmt.Parse(data, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.Default())
	if errs != nil {
		return nil, fmt.Errorf("%v", errs)
	}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			out = append(out, query{r.Alert + r.Record, r.Expr})
		}
	}
	return out, nil
}

// variables of Grafana, which are no PromQL.
var variables = strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h", "$__interval", "1m")

func dashboard(data []byte) (out []query, err error) {
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, err
	}
	for _, p := range d.Panels {
		for _, t := range p.Targets {
			out = append(out, query{p.Title, variables.Replace(t.Expr)})
		}
	}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		metric, label, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(v.Definition, "label_values("), ")"), ",")
		if !ok {
			return nil, fmt.Errorf("variable %s: %s is not label_values(METRIC, LABEL)", v.Name, v.Definition)
		}
		out = append(out, query{"variable " + v.Name, fmt.Sprintf("count by (%s) (%s)", strings.TrimSpace(label), metric)})
	}
	return out, nil
}
