// The page of runs compared, after charts.js: curves over each other, and tables that sort by a click on a head.
showIn('curves', DATA.curves.map(({title, ...curve}) => chart(title, {xlabel: 'epoch', whole: true, ...curve})));
document.querySelectorAll('[data-kind]').forEach(cell => cell.prepend(swatch(Number(cell.dataset.kind))));
document.querySelectorAll('table.sorts').forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
    const down = head.getAttribute('aria-sort') !== 'descending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const value = row => { const text = row.cells[column].dataset.value ?? row.cells[column].textContent;
      return text === '' || isNaN(text) ? text : Number(text); };
    [...body.rows].sort((a, b) => { const x = value(a), y = value(b);
      return (x < y ? 1 : x > y ? -1 : 0) * (down ? 1 : -1); }).forEach(row => body.append(row));
  }));
});
