/* Figures and crystals of the page. Crystals are painted on a 2-D canvas, back to front, so that they show (and turn)
   without WebGL: in headless browsers, over remote desktops, and any number of them on one page. */
(function () {
  "use strict";
  /* `#crystal-3` at the end of the address opens the page with the third crystal. */
  var read = function (id) { return JSON.parse(document.getElementById(id).textContent); };

  document.querySelectorAll(".plot").forEach(function (box) {
    var figure = read("data-" + box.id);
    Plotly.newPlot(box, figure.data, figure.layout, {
      responsive: true, displaylogo: false, displayModeBar: false
    });
  });

  var crystals = read("data-crystals");
  if (!crystals.length) { return; }

  function shade(hex, amount) {
    var n = parseInt(hex.slice(1), 16), to = amount > 0 ? 255 : 0, f = Math.abs(amount);
    var mix = function (v) { return Math.round(v + (to - v) * f); };
    return "rgb(" + mix(n >> 16) + "," + mix((n >> 8) & 255) + "," + mix(n & 255) + ")";
  }
  function alpha(hex, a) {
    var n = parseInt(hex.slice(1), 16);
    return "rgba(" + (n >> 16) + "," + ((n >> 8) & 255) + "," + (n & 255) + "," + a + ")";
  }
  function multiply(a, b) {
    return a.map(function (row) {
      return [0, 1, 2].map(function (k) { return row[0] * b[0][k] + row[1] * b[1][k] + row[2] * b[2][k]; });
    });
  }
  function turn(axis, angle) {
    var c = Math.cos(angle), s = Math.sin(angle);
    return axis === "x" ? [[1, 0, 0], [0, c, -s], [0, s, c]] : [[c, 0, s], [0, 1, 0], [-s, 0, c]];
  }
  /* The crystal's z axis points up on the screen; seen a little from above and from the side. */
  var START = multiply(turn("x", 0.3), multiply(turn("y", -0.42), [[0, 1, 0], [0, 0, 1], [1, 0, 0]]));

  function corners(cell) {
    var found = [];
    for (var k = 0; k < 8; k++) {
      found.push([0, 1, 2].map(function (d) {
        return [0, 1, 2].reduce(function (sum, v) { return sum + (((k >> v) & 1) - 0.5) * cell[v][d]; }, 0);
      }));
    }
    return found;
  }

  function paint(canvas, crystal, rotation, zoom, polyhedra) {
    var ratio = window.devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
    if (!w || !h) { return; }
    canvas.width = w * ratio; canvas.height = h * ratio;
    var g = canvas.getContext("2d");
    g.scale(ratio, ratio);
    var box = corners(crystal.cell), reach = 0;
    crystal.atoms.forEach(function (a) { reach = Math.max(reach, Math.hypot(a[1], a[2], a[3])); });
    box.forEach(function (c) { reach = Math.max(reach, Math.hypot(c[0], c[1], c[2])); });
    var scale = zoom * 0.46 * Math.min(w, h) / (reach + 0.35), eye = 6 * reach;
    var project = function (p) {
      var q = rotation.map(function (r) { return r[0] * p[0] + r[1] * p[1] + r[2] * p[2]; });
      var f = eye / (eye - q[2]);
      return { x: w / 2 + q[0] * f * scale, y: h / 2 - q[1] * f * scale, z: q[2], f: f };
    };
    var at = crystal.atoms.map(function (a) { return project([a[1], a[2], a[3]]); });
    var fog = function (z) { return 0.38 * (1 - (z + reach) / (2 * reach)); };
    var items = [];

    var b = box.map(project);
    for (var i = 0; i < 8; i++) {
      [1, 2, 4].forEach(function (bit) {
        if (i & bit) { return; }
        var p = b[i], q = b[i | bit];
        for (var s = 0; s < 8; s++) {
          (function (s) {
            var u = s / 8, v = (s + 1) / 8;
            items.push({ z: p.z + (q.z - p.z) * (u + v) / 2, draw: function () {
              g.strokeStyle = "rgba(70,88,104," + (0.75 - fog(p.z + (q.z - p.z) * u)) + ")"; g.lineWidth = 1.1;
              g.beginPath(); g.moveTo(p.x + (q.x - p.x) * u, p.y + (q.y - p.y) * u);
              g.lineTo(p.x + (q.x - p.x) * v, p.y + (q.y - p.y) * v); g.stroke();
            } });
          })(s);
        }
      });
    }
    var radius = function (k) { return 0.24 + 0.2 * crystal.elements[k].radius; };
    crystal.atoms.forEach(function (a, k) {
      var p = at[k], r = radius(a[0]) * scale * p.f, color = crystal.elements[a[0]].color;
      items.push({ z: p.z, draw: function () {
        var light = g.createRadialGradient(p.x - 0.35 * r, p.y - 0.4 * r, 0.08 * r, p.x, p.y, r), f = fog(p.z) * 0.8;
        light.addColorStop(0, shade(color, 0.62)); light.addColorStop(0.45, color); light.addColorStop(1, shade(color, -0.42));
        g.beginPath(); g.arc(p.x, p.y, r, 0, 2 * Math.PI); g.fillStyle = light; g.fill();
        g.fillStyle = "rgba(246,249,251," + f + ")"; g.fill();
        g.lineWidth = 0.7; g.strokeStyle = "rgba(0,0,0," + (0.45 - f) + ")"; g.stroke();
      } });
    });
    var thick = Math.max(1.5, 0.17 * scale);
    crystal.bonds.forEach(function (pair) {
      var p = at[pair[0]], q = at[pair[1]], mx = (p.x + q.x) / 2, my = (p.y + q.y) / 2, mz = (p.z + q.z) / 2;
      [[p, pair[0]], [q, pair[1]]].forEach(function (end) {
        var e = end[0], color = crystal.elements[crystal.atoms[end[1]][0]].color;
        items.push({ z: (e.z + mz) / 2 - 0.05, draw: function () {
          g.lineCap = "butt"; g.beginPath(); g.moveTo(e.x, e.y); g.lineTo(mx, my);
          g.lineWidth = thick * e.f; g.strokeStyle = shade(color, -0.32); g.stroke();
          g.lineWidth = thick * e.f * 0.55; g.strokeStyle = shade(color, 0.22); g.stroke();
          g.lineWidth = thick * e.f; g.strokeStyle = "rgba(246,249,251," + fog(mz) + ")"; g.stroke();
        } });
      });
    });
    if (polyhedra) {
      crystal.faces.forEach(function (face) {
        var p = face.slice(1).map(function (k) { return at[k]; }), color = crystal.elements[face[0]].color;
        var nx = (p[1].x - p[0].x) * (p[2].y - p[0].y) - (p[1].y - p[0].y) * (p[2].x - p[0].x);
        var size = Math.abs(nx) / (scale * scale * 4);
        items.push({ z: (p[0].z + p[1].z + p[2].z) / 3, draw: function () {
          g.beginPath(); g.moveTo(p[0].x, p[0].y); g.lineTo(p[1].x, p[1].y); g.lineTo(p[2].x, p[2].y); g.closePath();
          g.fillStyle = alpha(color, 0.13 + 0.12 * Math.min(1, size)); g.fill();
          g.lineWidth = 0.8; g.strokeStyle = alpha(color, 0.55); g.stroke();
        } });
      });
    }
    items.sort(function (a, c) { return a.z - c.z; }).forEach(function (item) { item.draw(); });
  }

  var canvas = document.getElementById("crystal"), legend = document.getElementById("legend");
  var faces = document.getElementById("polyhedra"), rows = document.querySelectorAll("table.pick tbody tr");
  var facts = document.querySelectorAll(".facts > div"), state = { k: 0, rotation: START, zoom: 1 };
  var draw = function () { paint(canvas, crystals[state.k], state.rotation, state.zoom, faces.checked); };

  function select(k) {
    state = { k: k, rotation: START, zoom: 1 };
    rows.forEach(function (row) { row.classList.toggle("on", Number(row.dataset.k) === k); });
    facts.forEach(function (fact) { fact.hidden = Number(fact.dataset.k) !== k; });
    legend.replaceChildren.apply(legend, crystals[k].elements.map(function (element) {
      var item = document.createElement("span"), dot = document.createElement("i");
      dot.style.background = element.color;
      item.append(dot, element.symbol);
      return item;
    }));
    faces.parentElement.hidden = !crystals[k].faces.length;
    draw();
  }
  rows.forEach(function (row) {
    var choose = function () { select(Number(row.dataset.k)); };
    row.addEventListener("click", function (event) { if (!event.target.closest("a")) { choose(); } });
    row.addEventListener("keydown", function (event) { if (event.key === "Enter") { choose(); } });
    paint(row.querySelector("canvas"), crystals[Number(row.dataset.k)], START, 1, true);
  });
  canvas.addEventListener("pointerdown", function (event) { canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", function (event) {
    if (!event.buttons) { return; }
    state.rotation = multiply(turn("x", 0.01 * event.movementY), multiply(turn("y", 0.01 * event.movementX), state.rotation));
    draw();
  });
  canvas.addEventListener("wheel", function (event) {
    event.preventDefault();
    state.zoom = Math.min(4, Math.max(0.4, state.zoom * Math.exp(-0.0012 * event.deltaY)));
    draw();
  }, { passive: false });
  canvas.addEventListener("dblclick", function () { select(state.k); });
  faces.addEventListener("change", draw);
  window.addEventListener("resize", draw);
  var wanted = /^#crystal-(\d+)$/.exec(window.location.hash);
  select(wanted && crystals[Number(wanted[1]) - 1] ? Number(wanted[1]) - 1 : 0);
})();
