// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/waggle-lb/waggle/internal/sysctl"
	"github.com/waggle-lb/waggle/sync/kube/proxyconfig"
)

// proxyFlags are the flags of `waggle run` that are kube-proxy's, and the file that
// says the same.
type proxyFlags struct {
	file    string // --config
	content []byte // of it
	// ofKubeProxy says that the file is kube-proxy's: all that it can say it says.
	ofKubeProxy bool
	kubeProxys  bool                       // waggle was called by the name of kube-proxy
	config      *proxyconfig.Configuration // what flags say, or the file
	settings    proxyconfig.Settings       // of it
	warnings    []string                   // for the log
	missing     []sysctl.Setting           // what the kernel did not have at the start

	master  string
	writeTo string
	initOnly,
	cleanup,
	version bool
}

// portFlags are kube-proxy's old ones, with what took their place.
var portFlags = map[string]string{"healthz-port": "healthz-bind-address", "metrics-port": "metrics-bind-address"}

// register registers them with waggle's defaults, or if it was called by the name of
// kube-proxy with those.
func (f *proxyFlags) register(cmd *cobra.Command, kubeProxys bool) {
	s := cmd.Flags()
	f.kubeProxys, f.config = kubeProxys, proxyconfig.Default(kubeProxys)
	s.StringVar(&f.file, "config", "", "file of settings, kube-proxy's (KubeProxyConfiguration) or waggle's own (Configuration); when it changes the process ends, to be started again")
	s.StringVar(&f.master, "master", "", "address of the API server, https://192.0.2.1:6443 say, in the place of what --kubeconfig or the pod says")
	s.StringVar(&f.writeTo, "write-config-to", "", "only write kube-proxy's configuration file with what is set to this file")
	s.BoolVar(&f.initOnly, "init-only", false, "only set the sysctls, for which it takes more privileges than afterwards")
	s.BoolVar(&f.cleanup, "cleanup", false, `only remove what is in the kernel, as "waggle cleanup"`)
	s.BoolVar(&f.version, "version", false, "only print the version")
	for i := range proxyconfig.Fields {
		if field := &proxyconfig.Fields[i]; field.Flag != "" && !field.Elsewhere {
			f.registerField(s, field)
		}
	}
	for name := range portFlags {
		s.Var(new(idleValue), name, "")
		s.Lookup(name).Hidden = true
	}
	complete(cmd, "proxy-mode", cobra.FixedCompletions(proxyconfig.Modes, cobra.ShellCompDirectiveNoFileComp))
}

func (f *proxyFlags) registerField(s *pflag.FlagSet, field *proxyconfig.Field) {
	if field.Use == proxyconfig.Ignored {
		flag := s.VarPF(new(idleValue), field.Flag, "", "")
		flag.Hidden = true
		if strings.HasSuffix(field.Flag, "-split-stream") {
			flag.NoOptDefVal = "true"
		}
		return
	}
	short := ""
	if field.Flag == "v" {
		short = "v"
	}
	flag := s.VarPF(proxyconfig.NewValue(f.config, field.Path), field.Flag, short, field.Text)
	if flag.Value.Type() == "bool" {
		flag.NoOptDefVal = "true"
	}
	if flag.DefValue == "0s" {
		flag.DefValue = "" // help need not say it
	}
}

// idleValue is of a flag that has no meaning.
type idleValue string

func (v *idleValue) String() string { return string(*v) }

func (*idleValue) Type() string { return "string" }

func (v *idleValue) Set(text string) error { *v = idleValue(text); return nil }

// follow makes of the flags, and of the file that was read, what the rest reads.
func (f *proxyFlags) follow(s *pflag.FlagSet) error {
	from := f.fromFlags
	if f.ofKubeProxy {
		from = f.fromFile
	}
	if err := from(s); err != nil {
		return err
	}
	f.tellIdle(s)
	f.settings = proxyconfig.SettingsOf(f.config)
	return nil
}

// fromFlags completes a configuration that flags made.
func (f *proxyFlags) fromFlags(s *pflag.FlagSet) error {
	proxyconfig.FollowFlags(f.config)
	for _, field := range proxyconfig.Fields {
		if field.Elsewhere {
			flag := s.Lookup(field.Flag)
			if err := proxyconfig.NewValue(f.config, field.Path).Set(flag.Value.String()); err != nil {
				return fmt.Errorf("--%s: %w", field.Flag, err)
			}
		}
	}
	if err := proxyconfig.Check(f.config); err != nil {
		return err
	}
	if note := proxyconfig.NodePortsNote(f.config); note != "" {
		f.warnings = append(f.warnings, "--nodeport-addresses: "+note)
	}
	return nil
}

// fromFile gives the flags that are registered elsewhere what kube-proxy's file
// says, and the file what flags say that count beside it: those that are written, but by
// the name of kube-proxy as there, where few do.
func (f *proxyFlags) fromFile(s *pflag.FlagSet) error {
	for _, field := range proxyconfig.Fields {
		flag := s.Lookup(field.Flag)
		switch {
		case flag == nil || field.Use == proxyconfig.Ignored:
			continue
		case flag.Changed && f.kubeProxys && !field.Beats:
			f.warnings = append(f.warnings, fmt.Sprintf("--%s has no effect beside --config, as in kube-proxy: write %s into %s", flag.Name, field.Path, f.file))
		case flag.Changed && field.Path == "hostnameOverride" && flag.Value.String() == "": // of a variable that is not set, perhaps
			continue
		case flag.Changed:
			if err := proxyconfig.NewValue(f.config, field.PathOfFlag(string(f.config.Mode))).Replace(flag.Value.String()); err != nil {
				return fmt.Errorf("--%s: %w", flag.Name, err)
			}
			continue
		}
		if field.Elsewhere {
			// As if it were written there: whoever registered it looks at that.
			if err := s.Set(flag.Name, proxyconfig.NewValue(f.config, field.Path).String()); err != nil {
				return fmt.Errorf("%s: %s: %w", f.file, field.Path, err)
			}
		}
	}
	return proxyconfig.Check(f.config)
}

// tellIdle warns of flags that are written and have no meaning here.
func (f *proxyFlags) tellIdle(s *pflag.FlagSet) {
	s.Visit(func(flag *pflag.Flag) {
		if better := portFlags[flag.Name]; better != "" {
			f.warnings = append(f.warnings, fmt.Sprintf("--%s has no effect: write --%s", flag.Name, better))
		}
		field := proxyconfig.FieldOf(flag.Name)
		if field == nil || f.ofKubeProxy && f.kubeProxys && field.Use != proxyconfig.Ignored { // fromFile has a word for it
			return
		}
		if why := field.Idle(f.config); why != "" {
			f.warnings = append(f.warnings, fmt.Sprintf("--%s has no effect: %s", flag.Name, why))
		}
	})
}

// log is the daemon's: --v says how much it is told, as in klog, whose verbosity N is
// the level -N.
func (f *proxyFlags) log(e *env) *slog.Logger {
	return slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.Level(-int(min(f.config.Logging.Verbosity, 100)))}))
}

// tell logs what there is to say of the configuration.
func (f *proxyFlags) tell(log *slog.Logger) {
	for _, w := range f.warnings {
		log.Warn("the configuration is not followed in all", "why", w)
	}
	if f.ofKubeProxy {
		log.Info("kube-proxy's configuration read", "path", f.file, "mode", string(f.config.Mode))
	}
}

// forAPIServer lists the flags that mean nothing to a file of services.
func (f *proxyFlags) forAPIServer() []string {
	out := []string{"master"}
	for _, field := range proxyconfig.Fields {
		if field.Flag != "" && !field.Anywhere {
			out = append(out, field.Flag)
		}
	}
	return out
}

// configz is what GET /configz answers: the configuration that is in effect, in
// kube-proxy's form.
func (f *proxyFlags) configz() any {
	c := *f.config
	c.HostnameOverride = strings.ToLower(strings.TrimSpace(c.HostnameOverride))
	c.NodePortAddresses = slices.Clone(f.settings.NodePortAddresses)
	if len(c.NodePortAddresses) == 0 {
		c.NodePortAddresses = []string{"primary"}
	}
	c.IPVS.Scheduler = cmp.Or(f.settings.Scheduler, defaultScheduler)
	return map[string]any{"kubeproxy.config.k8s.io": &c}
}

// same reports whether the file is as it was read.
func (f *proxyFlags) same(content []byte) bool { return bytes.Equal(content, f.content) }
