"""Results of methods: tables with their SQL, as text, HTML, Arrow tables and data frames."""
