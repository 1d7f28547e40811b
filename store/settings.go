package store

const (
	// fromNewestSettings ends a query of one value of global_settings. All of them are those of one row, the
	// newest: what an older row has besides is not in force.
	fromNewestSettings = ` from global_settings order by updated_at desc, id limit 1`
	// rateColumn is an organisation's markup rate as it stands there, the default where it has none of its own;
	// ? is that of a database without one.
	rateColumn = `coalesce(markup_rate, (select default_markup_rate` + fromNewestSettings + `), ?)`
)
