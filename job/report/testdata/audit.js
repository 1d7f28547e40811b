// What a page must have to be read by everyone; the result is Go's type audited.
(() => {
	const faults = [];
	const all = selector => [...document.querySelectorAll(selector)];
	const shown = element => element.getClientRects().length > 0;
	const need = (ok, fault) => { if (!ok) faults.push(fault); };

	need(document.documentElement.lang === "en", "no language");
	need(document.title.trim() !== "", "no title");
	need(all("h1").length === 1, "not one main heading");
	need(all("main").length === 1, "no main part");
	let level = 1;
	for (const heading of all("h1, h2, h3, h4")) {
		const now = Number(heading.tagName[1]);
		need(now <= level + 1, `a heading of level ${now} follows one of level ${level}`);
		level = now;
	}
	for (const table of all("table")) {
		need(table.caption && table.caption.textContent.trim() !== "", "a table without caption");
		for (const head of table.querySelectorAll("th")) {
			need(["row", "col"].includes(head.scope), `"${head.textContent}" heads nothing`);
		}
		const widths = new Set([...table.rows].map(row => row.cells.length));
		need(widths.size === 1, `rows of ${[...widths]} cells in one table`);
	}
	for (const svg of all("svg")) {
		const label = svg.getAttribute("aria-labelledby") || "";
		need(svg.getAttribute("role") === "img", "a chart that is no picture");
		need(svg.querySelector("title") && svg.querySelector("desc"), "a chart without title or description");
		for (const id of label.split(" ")) {
			need(id !== "" && document.getElementById(id), `a chart is labelled by ${id}, which is not there`);
		}
	}
	for (const region of all("[role=region]")) {
		need(document.getElementById(region.getAttribute("aria-labelledby")), "a region without a name");
		need(region.tabIndex === 0, "a region that scrolls and can't be reached by keyboard");
	}
	const ids = all("[id]").map(element => element.id);
	need(new Set(ids).size === ids.length, "an id stands twice");

	// Contrast of text, WCAG 2.2, 1.4.3: at least 4.5.
	const rgb = text => (text.match(/[\d.]+/g) || []).map(Number);
	const light = color => {
		const [r, g, b] = color.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const behind = element => {
		for (; element; element = element.parentElement) {
			const color = rgb(getComputedStyle(element).backgroundColor);
			if (color.length === 3 || color[3] === 1) return color;
		}
		return [255, 255, 255];
	};
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) {
		const element = texts.currentNode.parentElement;
		if (texts.currentNode.data.trim() === "" || !shown(element) || ["title", "desc"].includes(element.localName)) continue;
		const style = getComputedStyle(element);
		let front = rgb(element.ownerSVGElement ? style.fill : style.color);
		if (document.documentElement.id === "faint") front = front.map(v => (v + 255) / 2);
		const [a, b] = [light(front), light(behind(element))].sort((x, y) => y - x);
		const contrast = (a + 0.05) / (b + 0.05);
		need(contrast >= 4.5, `contrast ${contrast.toFixed(2)} of "${texts.currentNode.data.trim().slice(0, 40)}"`);
	}

	return {
		Faults: [...new Set(faults)],
		Scripts: all("script, img, iframe, object, embed, link, base, form, input, a, [onclick], [onerror], [onload], [style]").length,
		Loaded: performance.getEntriesByType("resource").length,
		Overflow: Math.ceil(document.documentElement.scrollWidth - document.documentElement.clientWidth),
		Cut: all(".wide-table").filter(region => region.scrollWidth > region.clientWidth).length,
		Narrow: all("svg.narrow").some(shown),
		Wide: all("svg.wide").some(shown),
		Background: getComputedStyle(document.body).backgroundColor,
		MaxWidth: getComputedStyle(document.body).maxWidth,
		Names: all("bdi").map(element => element.textContent),
	};
})()
