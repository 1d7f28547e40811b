package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestExported holds that a name is exported for somebody: a name of a package that no other one mentions, and that no
// exported one is declared with, is unexported. Methods and fields are left out, and the values of a type.
func TestExported(t *testing.T) {
	declared := map[string]token.Position{} // import path and name
	needed := map[string]bool{}             // by a selector of another package, or by what is exported itself
	files := token.NewFileSet()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || slices.Contains([]string{"bin", "testdata", "node_modules"}, entry.Name())):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go"):
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		own := "usage-sync/" + dir
		imports := map[string]string{}
		for _, spec := range file.Imports {
			imported := strings.Trim(spec.Path.Value, `"`)
			name := filepath.Base(imported)
			if spec.Name != nil {
				name = spec.Name.Name
			}
			imports[name] = imported
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if selector, ok := n.(*ast.SelectorExpr); ok {
				if name, ok := selector.X.(*ast.Ident); ok && strings.HasPrefix(imports[name.Name], "usage-sync/") {
					needed[imports[name.Name]+"."+selector.Sel.Name] = true
				}
			}
			return true
		})
		if strings.HasSuffix(path, "_test.go") || file.Name.Name == "main" {
			return nil
		}
		export := func(name *ast.Ident) {
			if name.IsExported() {
				declared[own+"."+name.Name] = files.Position(name.Pos())
			}
		}
		need := func(n ast.Node) {
			if n == nil || n == ast.Expr(nil) {
				return
			}
			ast.Inspect(n, func(n ast.Node) bool {
				if name, ok := n.(*ast.Ident); ok && name.IsExported() {
					needed[own+"."+name.Name] = true
				}
				return true
			})
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					export(d.Name)
				}
				if d.Name.IsExported() {
					need(d.Type)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						export(spec.Name)
						need(spec.Type)
					case *ast.ValueSpec:
						if d.Tok == token.CONST && (spec.Type != nil || len(spec.Values) == 0) {
							continue // a value of a type goes with it
						}
						for _, name := range spec.Names {
							export(name)
						}
						need(spec.Type)
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range declared {
		if !needed[name] {
			t.Errorf("%s: nothing outside of its package needs %s", at, name)
		}
	}
}
